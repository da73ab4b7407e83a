-- Delete every key of a queue that has no runs left. DEL is let through at full memory, and as a
-- script's first write it lets the rest of it through too.
local function forget_queue(keys, queue)
    redis.call("DEL", keys.scheduled .. queue, keys.stream .. queue, keys.wake .. queue,
        keys.freed .. queue, keys.newest .. queue, keys.queue_slots .. queue, keys.queue .. queue)
    redis.call("ZREM", keys.ready, queue)
    redis.call("ZREM", keys.queues, queue)
end
