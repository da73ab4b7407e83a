-- Create a queue; a taken priority moves the others down, as Prefect does (work queue routes).
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   ready
-- KEYS[5]   holders
-- KEYS[6]   inbox         prefix of inbox:<h>
-- KEYS[7]   events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  name          of the queue, encoded
-- ARGV[3]  id            of the queue
-- ARGV[4]  priority      1 first; empty: the first one that nobody has
-- ARGV[5]  fields        flat list of settings as JSON: names and values, all strings
-- Returns  created | exists | no_pool
-- Uses     now, place_queue, event, nudge
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
    priority = 1
    while redis.call("ZCOUNT", keys.queues, priority, priority) > 0 do
        priority = priority + 1
    end
end
place_queue(keys, name, priority)
redis.call("HSET", keys.queue .. name, "id", id, "created_ms", at_ms, unpack(fields))
redis.call("HINCRBY", keys.pool, "queues_version", 1)
for _, holder in ipairs(redis.call("ZRANGE", keys.holders, 0, 999)) do
    nudge(keys.inbox .. holder)
end
event(keys, at_ms, "queue-created", { "queue", name, "id", id })
return "created"
