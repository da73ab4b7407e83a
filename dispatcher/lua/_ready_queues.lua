-- The ready queues that a holder serves, by priority; `served` is its list, "" for all queues.
local function ready_queues(keys, served)
    local ready = redis.call("ZRANGE", keys.ready, 0, -1)
    if served == "" then
        return ready
    end
    local wanted, found = {}, {}
    for name in string.gmatch(served, "%S+") do
        wanted[name] = true
    end
    for _, name in ipairs(ready) do
        if wanted[name] then
            found[#found + 1] = name
        end
    end
    return found
end
