-- End a run: its record stays for the pool's retention, its idempotency key for longer.
local function end_run(keys, id, run, at_ms, state_type, state_name, message)
    local settings = fetch(keys.pool, "retention_ms", "keep_payload", "idempotency_ttl_ms")
    local kept = settings.keep_payload == "1" or (state_type ~= "COMPLETED" and state_type ~= "CANCELLED")
    if not kept then
        redis.call("HDEL", keys.run .. id, "payload")
    end
    redis.call("HSET", keys.run .. id, "place", "ended", "state_type", state_type,
        "state_name", state_name, "message", message, "ended_ms", at_ms)
    redis.call("PEXPIRE", keys.run .. id, settings.retention_ms)
    redis.call("ZREM", keys.unstarted, id)
    redis.call("ZADD", keys.finished, at_ms, id)
    redis.call("PEXPIRE", keys.finished, settings.retention_ms)
    if run.idempotency and run.idempotency ~= "" then
        redis.call("PEXPIRE", keys.idempotency .. run.idempotency, settings.idempotency_ttl_ms or 2592000000)
    end
    -- Two old ones leave for each that comes, so the list follows the records without a long step.
    local old = redis.call("ZRANGE", keys.finished, "-inf", at_ms - settings.retention_ms, "BYSCORE", "LIMIT", 0, 2)
    for _, gone in ipairs(old) do
        redis.call("ZREM", keys.finished, gone)
    end
end
