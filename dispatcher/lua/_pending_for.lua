-- For which consumer of the group an entry is pending; false for none.
local function pending_for(stream, entry)
    local rows = redis.pcall("XPENDING", stream, "workers", entry, entry, 1)
    return not rows.err and rows[1] and rows[1][2] or false -- an error: no stream or no group
end
