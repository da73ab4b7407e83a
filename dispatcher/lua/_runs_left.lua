-- How many runs a queue has in its schedule, its stream and with workers; those that wait for their
-- deployment are in sets of their own.
local function runs_left(keys, queue)
    return redis.call("ZCARD", keys.scheduled .. queue) + unclaimed_entries(keys.stream .. queue)
        + redis.call("ZCARD", keys.queue_slots .. queue)
end
