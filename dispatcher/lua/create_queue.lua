-- Create a queue; a taken priority moves the others down, as Prefect does (work queue routes).
--
-- KEYS[1]  pool
-- KEYS[2]  queues
-- KEYS[3]  queue         prefix of queue:<q>
-- KEYS[4]  ready
-- KEYS[5]  holders
-- KEYS[6]  inbox         prefix of inbox:<h>
-- KEYS[7]  events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  name          of the queue, encoded
-- ARGV[3]  id            of the queue
-- ARGV[4]  priority      1 first; empty: after all others
-- ARGV[5]  fields        flat list of settings as JSON: names and values, all strings
-- Returns  created | exists | no_pool
-- Uses     now, event, nudge
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], ready = KEYS[4],
    holders = KEYS[5], inbox = KEYS[6], events = KEYS[7] }
local at_ms, name, id, priority = now(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local fields = cjson.decode(ARGV[5])

if redis.call("EXISTS", keys.pool) == 0 then
    return "no_pool"
end
if redis.call("ZSCORE", keys.queues, name) then
    return redis.call("HGET", keys.queue .. name, "id") == id and "created" or "exists"
end
if not priority then
    local last = redis.call("ZRANGE", keys.queues, -1, -1, "WITHSCORES")
    priority = tonumber(last[2] or 0) + 1
end

local place, moving = priority, name
while moving do
    local there = redis.call("ZRANGE", keys.queues, place, place, "BYSCORE")[1]
    redis.call("ZADD", keys.queues, place, moving)
    if redis.call("ZSCORE", keys.ready, moving) then
        redis.call("ZADD", keys.ready, place, moving)
    end
    place, moving = place + 1, there
end
redis.call("HSET", keys.queue .. name, "id", id, "created_ms", at_ms, unpack(fields))
redis.call("HINCRBY", keys.pool, "queues_version", 1)
for _, holder in ipairs(redis.call("ZRANGE", keys.holders, 0, 999)) do
    nudge(keys.inbox .. holder)
end
event(keys, at_ms, "queue-created", { "queue", name, "id", id })
return "created"
