-- Under `late_policy` latest, know the newest due run of each deployment before a late one moves.
-- A part of the schedule at a time, `looks_left` runs of it: answers whether all that is due has
-- been seen, and how many looks are left then.
local function seen_all_due(keys, queue, settings, at_ms, late_after_ms, looks_left)
    local head = redis.call("ZRANGE", keys.scheduled .. queue, 0, 0, "WITHSCORES")
    if settings.late_policy ~= "latest" or not head[2] or at_ms - head[2] < late_after_ms then
        return true, looks_left
    end
    if looks_left <= 0 then
        return false, looks_left
    end
    local last = redis.call("HGET", keys.queue .. queue, "seen_until")
    local rank = last and redis.call("ZRANK", keys.scheduled .. queue, string.sub(last, 16))
    local first = rank and rank + 1 or last and redis.call("ZCOUNT", keys.scheduled .. queue, "-inf", "(" .. tonumber(string.sub(last, 1, 15))) or 0
    local page = redis.call("ZRANGE", keys.scheduled .. queue, first, first + looks_left - 1, "WITHSCORES")
    local is_last = #page / 2 < looks_left
    for i = 1, #page, 2 do
        if tonumber(page[i + 1]) > at_ms then
            is_last = true
            break
        end
        last = place_key(page[i + 1], page[i])
        note_newest(keys, queue, redis.call("HGET", keys.run .. string.sub(page[i], 17), "deployment") or "", last)
        redis.call("HSET", keys.queue .. queue, "seen_until", last)
    end
    return is_last, looks_left - #page / 2
end
