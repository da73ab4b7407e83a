-- Give a run to a holder: what its record says, what the holder has, the slots of pool and queue.
local function hold(keys, id, run, holder, number, token, at_ms)
    local field = "delivery." .. run.delivery + 1
    redis.call("HSET", keys.run .. id, "place", "claimed", "state_type", "PENDING",
        "state_name", "Pending", "holder", holder, "claim", number, "claimed_ms", at_ms,
        "token", token, "delivery", run.delivery + 1,
        field .. ".holder", holder, field .. ".claimed_ms", at_ms)
    if tonumber(run.delivery) >= 20 then
        local old = "delivery." .. run.delivery - 19
        redis.call("HDEL", keys.run .. id, old .. ".holder", old .. ".claimed_ms", old .. ".started_ms",
            old .. ".ended_ms", old .. ".outcome")
    end
    redis.call("SADD", keys.claims .. holder, id)
    redis.call("ZADD", keys.pool_slots, at_ms, id)
    redis.call("ZADD", keys.queue_slots .. run.queue, at_ms, id)
    event(keys, at_ms, "claimed", { "run", id, "queue", run.queue, "from", "SCHEDULED", "to", "PENDING", "worker", holder })
end
