-- Entries of a stream that nobody has claimed: length less pending, since the entry of an ended
-- claim is deleted (the lag that XINFO tells is wrong after deletes). Groups of others do not count.
local function unclaimed_entries(stream)
    local length = redis.call("XLEN", stream)
    if length == 0 then
        return 0
    end
    for _, group in ipairs(redis.call("XINFO", "GROUPS", stream)) do
        local info = {}
        for i = 1, #group, 2 do
            info[group[i]] = group[i + 1]
        end
        if info.name == "workers" then
            length = length - info.pending
        end
    end
    return length
end
