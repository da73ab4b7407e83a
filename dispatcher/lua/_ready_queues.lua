-- The queues that a holder can claim from now, by priority; `served` is its list, "" for all.
-- None while the pool is paused, full or handed out by polling; a queue that is paused or full is
-- not in `ready`.
local function ready_queues(keys, served, at_ms)
    local pool = fetch(keys.pool, "limit", "paused", "paused_until_ms", "handout")
    if pool.handout == "poll" or is_paused(pool.paused, pool.paused_until_ms, at_ms) or room(pool.limit, keys.pool_slots) <= 0 then
        return {}
    end
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
