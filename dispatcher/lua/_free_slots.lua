-- Take a claimed run's slots away. Whoever was kept out by a limit that has room now is woken.
local function free_slots(keys, id, run, at_ms)
    if redis.call("ZREM", keys.pool_slots, id) == 1
        and room(redis.call("HGET", keys.pool, "limit"), keys.pool_slots) == 1 then
        for _, queue in ipairs(redis.call("ZRANGE", keys.ready, 0, -1)) do
            nudge(keys.wake .. queue)
        end
    end
    if redis.call("ZREM", keys.queue_slots .. run.queue, id) == 1
        and room(redis.call("HGET", keys.queue .. run.queue, "limit"), keys.queue_slots .. run.queue) == 1 then
        offer(keys, run.queue, at_ms)
    end
    free_deployment(keys, id, run.deployment, at_ms)
end
