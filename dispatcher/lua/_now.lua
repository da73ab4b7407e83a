-- The moment of a call in ms: what the caller passed, else the server's own clock.
local function now(passed)
    if passed ~= "" then
        return tonumber(passed)
    end
    local time = redis.call("TIME")
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
