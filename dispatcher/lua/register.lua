-- Register a worker's incarnation as a holder of claims, with a lease that `renew` prolongs.
-- An older incarnation of the same name is marked dead; the caller recovers it at once.
--
-- KEYS[1]   pool
-- KEYS[2]   holders
-- KEYS[3]   holder        prefix of holder:<h>
-- KEYS[4]   inbox         prefix of inbox:<h>
-- KEYS[5]   workers
-- KEYS[6]   events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  holder        <worker>.<incarnation>
-- ARGV[4]  worker        stable name
-- ARGV[5]  queues        encoded names separated by spaces; empty: all queues
-- ARGV[6]  slots         most runs at a time
-- ARGV[7]  host
-- ARGV[8]  pid
-- ARGV[9]  type          of the worker
-- Returns  {word, lease_ms, renew_ms, displaced}: registered | lost | no_pool | newer; displaced is the older holder of the name or empty
-- Uses     fetch, now, event, nudge
local keys = { pool = KEYS[1], holders = KEYS[2], holder = KEYS[3], inbox = KEYS[4],
    workers = KEYS[5], events = KEYS[6] }
local at_ms, known_version, holder, worker = now(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local queues, slots, host, pid, kind = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local pool = fetch(keys.pool, "version", "lease_ms", "renew_ms")
if not pool.version then
    return { "no_pool", 0, 0, "" }
elseif tonumber(pool.version) > known_version then
    return { "newer", pool.version, 0, "" }
elseif redis.call("HGET", keys.holder .. holder, "dead") then
    return { "lost", 0, 0, "" }
end

-- Not refused at full memory, so that what runs can end: PERSIST is let through and opens the way.
redis.call("PERSIST", keys.holder .. holder)
local displaced = redis.call("HGET", keys.workers, worker)
if displaced and displaced ~= holder and redis.call("EXISTS", keys.holder .. displaced) == 1 then
    redis.call("HSET", keys.holder .. displaced, "dead", "1")
    redis.call("ZADD", keys.holders, 0, displaced)
    nudge(keys.inbox .. displaced)
else
    displaced = ""
end
if redis.call("EXISTS", keys.holder .. holder) == 0 then
    redis.call("HSET", keys.holder .. holder, "worker", worker, "queues", queues, "slots", slots,
        "host", host, "pid", pid, "type", kind, "registered_ms", at_ms, "claim_number", 0)
    if displaced ~= "" then
        redis.call("HSET", keys.holder .. holder, "displaced", displaced)
    end
    event(keys, at_ms, "registered", { "worker", holder })
else
    displaced = redis.call("HGET", keys.holder .. holder, "displaced") or ""
end
redis.call("HSET", keys.workers, worker, holder)
redis.call("ZADD", keys.holders, at_ms + pool.lease_ms, holder)
return { "registered", tonumber(pool.lease_ms), tonumber(pool.renew_ms), displaced }
