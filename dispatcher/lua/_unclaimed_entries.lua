-- Entries of a stream that nobody has claimed: length less pending, since the entry of an ended
-- claim is deleted (the lag that XINFO tells is wrong after deletes).
local function unclaimed_entries(stream)
    local length = redis.call("XLEN", stream)
    if length == 0 then
        return 0
    end
    for _, group in ipairs(redis.call("XINFO", "GROUPS", stream)) do
        for i = 1, #group, 2 do
            if group[i] == "pending" then
                length = length - group[i + 1]
            end
        end
    end
    return length
end
