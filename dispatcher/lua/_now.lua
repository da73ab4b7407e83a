-- The moment of a call in ms, and in µs: what the caller passed, else the server's own clock.
local function now(passed)
    if passed ~= "" then
        return tonumber(passed), tonumber(passed) * 1000
    end
    local time = redis.call("TIME")
    local at_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
    return math.floor(at_us / 1000), at_us
end
