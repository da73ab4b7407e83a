-- End the present claim of a run: its entry and marks, its slots, and what its holder has of it.
-- A run that was taken has no entry. SREM is let through at full memory and opens the way.
local function close_claim(keys, id, run, at_ms, outcome)
    redis.call("SREM", keys.claims .. run.holder, id)
    if run.entry then
        drop_entry(keys, run.queue, run.entry)
    end
    local started_ms, retrying = unpack(redis.call("HMGET", keys.run .. id, "delivery." .. run.delivery .. ".started_ms", "retrying"))
    if started_ms and not retrying and (run.state_type == "RUNNING" or run.state_type == "CANCELLING") then
        redis.call("HINCRBY", keys.run .. id, "ran_ms", math.max(0, at_ms - started_ms))
    end
    close_delivery(keys.run .. id, run.delivery, at_ms, outcome)
    if run.state_type == "CANCELLING" then
        redis.call("SREM", keys.orders .. run.holder, id)
    end
    free_slots(keys, id, run, at_ms)
end
