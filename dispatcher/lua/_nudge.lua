-- Put the one element into a list that holds at most one: a worker blocked on it looks.
local function nudge(list)
    if redis.call("LLEN", list) == 0 then
        redis.call("LPUSH", list, "1")
    end
end
