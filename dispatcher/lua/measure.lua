-- Count the runs of some queues by where they are, and say since when the first of them has been due.
--
-- KEYS[1]   queue         prefix of queue:<q>
-- KEYS[2]   scheduled     prefix of scheduled:<q>
-- KEYS[3]   stream        prefix of stream:<q>
-- KEYS[4]   queue_slots   prefix of slots:queue:<q>
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2...]  queues     encoded names
-- Returns  {now_ms, {queue, scheduled, due, unclaimed, claimed, oldest_due_ms, limit, paused}, …}: scheduled are those that are not due yet; due, those that are and are in no stream; oldest_due_ms is empty when nothing is due; a queue that is not there is left out
-- Uses     fetch, now, is_paused, unclaimed_entries
local keys = { queue = KEYS[1], scheduled = KEYS[2], stream = KEYS[3], queue_slots = KEYS[4] }
local at_ms = now(ARGV[1])

-- The due time of the first entry that nobody has claimed; its payload stays here.
local function first_due_ms(stream)
    local last = "-"
    for _, group in ipairs(redis.call("XINFO", "GROUPS", stream)) do
        local info = {}
        for i = 1, #group, 2 do
            info[group[i]] = group[i + 1]
        end
        if info.name == "workers" then
            last = "(" .. info["last-delivered-id"]
        end
    end
    for _, entry in ipairs(redis.call("XRANGE", stream, last, "+", "COUNT", 1)) do
        for i = 1, #entry[2], 2 do
            if entry[2][i] == "due_ms" then
                return entry[2][i + 1]
            end
        end
    end
    return nil
end

local answer = { string.format("%.0f", at_ms) }
for i = 2, #ARGV do
    local queue = ARGV[i]
    local settings = fetch(keys.queue .. queue, "id", "limit", "paused", "paused_until_ms")
    if settings.id then
        local due = redis.call("ZCOUNT", keys.scheduled .. queue, "-inf", at_ms)
        local scheduled = redis.call("ZCARD", keys.scheduled .. queue) - due
        local oldest = due > 0 and redis.call("ZRANGE", keys.scheduled .. queue, 0, 0, "WITHSCORES")[2] or nil
        local unclaimed = unclaimed_entries(keys.stream .. queue)
        local first = unclaimed > 0 and first_due_ms(keys.stream .. queue) or nil
        if first and (not oldest or tonumber(first) < tonumber(oldest)) then
            oldest = first
        end
        local paused = is_paused(settings.paused, settings.paused_until_ms, at_ms)
        answer[#answer + 1] = { queue, scheduled, due, unclaimed, redis.call("ZCARD", keys.queue_slots .. queue),
            oldest or "", settings.limit or "", paused and 1 or 0 }
    end
end
return answer
