-- Let workers find a queue while something in it can be claimed, and wake one of them. `unclaimed`
-- is how many entries nobody has claimed, for who knows it.
local function offer(keys, queue, at_ms, unclaimed)
    local settings = fetch(keys.queue .. queue, "limit", "paused", "paused_until_ms")
    local priority = redis.call("ZSCORE", keys.queues, queue)
    if not priority or is_paused(settings.paused, settings.paused_until_ms, at_ms)
        or room(settings.limit, keys.queue_slots .. queue) <= 0
        or (unclaimed or unclaimed_entries(keys.stream .. queue)) <= 0 then
        redis.call("ZREM", keys.ready, queue)
        return
    end
    redis.call("ZADD", keys.ready, priority, queue)
    nudge(keys.wake .. queue)
end
