-- A queue holds fewer unclaimed entries now, `bytes` less of payload; once it is half empty, what
-- was blocked may follow. Answers how many are left.
local function made_room(keys, queue, bytes)
    local left = unclaimed_entries(keys.stream .. queue)
    local settings = fetch(keys.queue .. queue, "blocked", "max_unclaimed", "unclaimed_bytes")
    local bytes_left = left > 0 and math.max(0, tonumber(settings.unclaimed_bytes or 0) - bytes) or 0
    redis.call("HSET", keys.queue .. queue, "unclaimed_bytes", bytes_left)
    if settings.blocked == "unclaimed" and left <= tonumber(settings.max_unclaimed or 1000) / 2 then
        redis.call("HDEL", keys.queue .. queue, "blocked")
        redis.call("PUBLISH", keys.changes, queue .. " 0")
    end
    if left <= 0 then
        redis.call("ZREM", keys.ready, queue)
    end
    return left
end
