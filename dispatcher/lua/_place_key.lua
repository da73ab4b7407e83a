-- A run's due time and place number as text that sorts like them.
local function place_key(due_ms, member)
    return string.format("%015.0f", math.max(0, tonumber(due_ms))) .. member
end
