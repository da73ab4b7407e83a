-- Say whether a pause holds at this moment; one with an end ends by itself.
local function is_paused(paused, until_ms, at_ms)
    return paused == "1" and (not until_ms or at_ms < tonumber(until_ms))
end
