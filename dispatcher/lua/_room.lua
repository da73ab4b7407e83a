-- How many more runs a limit lets through beside those that hold its slots; endless without one.
local function room(limit, slots)
    local most = tonumber(limit or "")
    return most and most - redis.call("ZCARD", slots) or math.huge
end
