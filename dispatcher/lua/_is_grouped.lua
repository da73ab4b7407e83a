-- Say whether a stream has the group `workers`.
local function is_grouped(stream)
    for _, group in ipairs(redis.call("EXISTS", stream) == 1 and redis.call("XINFO", "GROUPS", stream) or {}) do
        for i = 1, #group, 2 do
            if group[i] == "name" and group[i + 1] == "workers" then
                return true
            end
        end
    end
    return false
end
