-- Tell the first queue by priority of those in which runs wait for a deployment: its free slot is
-- that queue's, and what it leaves over the next one's. Queues before it that are paused or full
-- get the mark too, for the time when they dispatch again. With `before` only queues of a higher
-- priority than that count. Answers the queue, nil for none.
local function tell_waiting(keys, deployment, at_ms, before)
    local range = { "[" .. deployment .. " ", "(" .. deployment .. "!", "BYLEX", "LIMIT", 0, 1000 }
    local names, found = redis.call("ZRANGE", keys.waits, unpack(range)), {}
    if #names == 0 then
        return nil
    end
    for i, pair in ipairs(names) do
        names[i] = string.sub(pair, #deployment + 2)
    end
    local priorities = {}
    for i, score in ipairs(redis.call("ZMSCORE", keys.queues, unpack(names))) do
        local priority = tonumber(score or "")
        if priority then
            priorities[#priorities + 1], found[priority] = priority, names[i]
        end
    end
    table.sort(priorities) -- no two queues have the same one
    for _, priority in ipairs(priorities) do
        local queue = found[priority]
        if before and priority >= before then
            return nil
        end
        local settings = fetch(keys.queue .. queue, "paused", "paused_until_ms", "blocked")
        local is_new = redis.call("SADD", keys.freed .. queue, deployment) == 1
        if not settings.blocked and not is_paused(settings.paused, settings.paused_until_ms, at_ms) then
            if is_new then
                redis.call("PUBLISH", keys.changes, queue .. " 0")
            end
            return queue
        end
    end
    return nil
end
