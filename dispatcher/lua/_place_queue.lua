-- Give a queue a priority; one that has it moves down by one, and so on until there is a gap
-- (Prefect: work queue routes).
local function place_queue(keys, name, priority)
    local place, moving = priority, name
    redis.call("ZREM", keys.queues, name)
    while moving do
        local there = redis.call("ZRANGE", keys.queues, place, place, "BYSCORE")[1]
        redis.call("ZADD", keys.queues, place, moving)
        if redis.call("ZSCORE", keys.ready, moving) then
            redis.call("ZADD", keys.ready, place, moving)
        end
        place, moving = place + 1, there
    end
end
