-- Prolong a holder's lease, compare what both sides think it holds, and say what it should know.
--
-- KEYS[1]   pool
-- KEYS[2]   ready
-- KEYS[3]   wake          prefix of wake:<q>
-- KEYS[4]   pool_slots
-- KEYS[5]   holders
-- KEYS[6]   holder        prefix of holder:<h>
-- KEYS[7]   claims        prefix of claims:<h>
-- KEYS[8]   orders        prefix of orders:<h>
-- KEYS[9]   workers
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  worker        stable name
-- ARGV[4]  held          runs that the holder thinks it has
-- ARGV[5]  number        of its last claim
-- Returns  {word, lease_ms, renew_ms, queues_version, draining, run, …}: renewed | compare | lost | displaced; compare after the two sides differed twice in a row; the runs are those it is to cancel
-- Uses     fetch, now, is_paused, room, ready_queues, nudge, wake_again
local keys = { pool = KEYS[1], ready = KEYS[2], wake = KEYS[3], pool_slots = KEYS[4],
    holders = KEYS[5], holder = KEYS[6], claims = KEYS[7], orders = KEYS[8], workers = KEYS[9] }
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
    wake_again(keys, me.queues, at_ms)
end
local word = differs and me.differs and "compare" or "renewed"
local answer = { word, tonumber(pool.lease_ms), tonumber(pool.renew_ms), tonumber(pool.queues_version),
    me.draining and 1 or 0 }
for _, id in ipairs(redis.call("SMEMBERS", keys.orders .. holder)) do
    answer[#answer + 1] = id
end
return answer
