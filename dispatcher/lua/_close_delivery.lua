-- Note in the run's record how its present delivery ended, and take the claim's marks away.
local function close_delivery(run_key, delivery, at_ms, outcome)
    local field = "delivery." .. delivery
    redis.call("HSET", run_key, field .. ".ended_ms", at_ms, field .. ".outcome", outcome)
    redis.call("HDEL", run_key, "entry", "token", "holder", "claim", "handed_ms", "executor", "renewed_ms")
end
