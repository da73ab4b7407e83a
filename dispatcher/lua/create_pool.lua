-- Create a pool with its `default` queue; the same request again changes nothing.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   events
-- KEYS[5]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model
-- ARGV[3]  id            of the pool
-- ARGV[4]  queue_id      of its `default` queue
-- ARGV[5]  fields        flat list of settings as JSON: names and values, all strings
-- Returns  created | exists
-- Uses     now, event
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], events = KEYS[4],
    changes = KEYS[5] }
local at_ms, version, id, queue_id = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local fields = cjson.decode(ARGV[5])

if redis.call("EXISTS", keys.pool) == 1 then
    return redis.call("HGET", keys.pool, "id") == id and "created" or "exists"
end
redis.call("HSET", keys.pool, "version", version, "id", id, "created_ms", at_ms,
    "submissions", 0, "queues_version", 1, "job_version", at_ms, unpack(fields))
redis.call("ZADD", keys.queues, 1, "default")
redis.call("HSET", keys.queue .. "default", "id", queue_id, "created_ms", at_ms)
redis.call("PERSIST", keys.events) -- those of a deleted pool of this name were to go
event(keys, at_ms, "pool-created", { "id", id })
-- Dispatchers of all pools hear of a new one here; they list the names only now and then.
redis.call("PUBLISH", keys.changes, "default " .. string.format("%.0f", at_ms))
return "created"
