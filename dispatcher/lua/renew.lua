-- Prolong a holder's lease, compare what both sides think it holds, and say what it should know.
--
-- KEYS[1]  pool
-- KEYS[2]  holders
-- KEYS[3]  holder        prefix of holder:<h>
-- KEYS[4]  claims        prefix of claims:<h>
-- KEYS[5]  workers
-- KEYS[6]  ready
-- KEYS[7]  wake          prefix of wake:<q>
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  worker        stable name
-- ARGV[4]  held          runs that the holder thinks it has
-- ARGV[5]  number        of its last claim
-- Returns  {word, lease_ms, renew_ms, queues_version, draining}: renewed | compare | lost | displaced; compare after the two sides differed twice in a row
-- Uses     now, fetch, nudge, ready_queues, wake_again
local keys = { pool = KEYS[1], holders = KEYS[2], holder = KEYS[3], claims = KEYS[4],
    workers = KEYS[5], ready = KEYS[6], wake = KEYS[7] }
local at_ms, holder, worker, held, number = now(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local holder_key = keys.holder .. holder
local me = fetch(holder_key, "worker", "dead", "queues", "draining", "claim_number", "differs")
if not me.worker or me.dead then
    -- Displaced only by one that lives: lost writes may have brought an older incarnation back.
    local present = redis.call("HGET", keys.workers, worker)
    local lease_ms = present and present ~= holder and redis.call("ZSCORE", keys.holders, present)
    local displaced = lease_ms and tonumber(lease_ms) > at_ms
    return { displaced and "displaced" or "lost", 0, 0, 0, 0 }
end

-- PERSIST is let through at full memory and opens the way for the rest: leases go on.
redis.call("PERSIST", holder_key)
local pool = fetch(keys.pool, "lease_ms", "renew_ms", "queues_version")
redis.call("ZADD", keys.holders, at_ms + pool.lease_ms, holder)
local differs = held ~= redis.call("SCARD", keys.claims .. holder) or number ~= me.claim_number
if differs then
    redis.call("HINCRBY", holder_key, "differs", 1)
elseif me.differs then
    redis.call("HDEL", holder_key, "differs")
end
-- A worker that died with a wake in its hand cost this much time, and no run.
if not me.draining then
    wake_again(keys, me.queues)
end
local word = differs and me.differs and "compare" or "renewed"
return { word, tonumber(pool.lease_ms), tonumber(pool.renew_ms), tonumber(pool.queues_version),
    me.draining and 1 or 0 }
