-- Mark a claimed run as running, with the number of starts that this makes; `run` is as it was.
local function begin(keys, id, run, delivery, run_count, holder, at_ms)
    redis.call("HSET", keys.run .. id, "state_type", "RUNNING", "state_name", run.retrying and "Retrying" or "Running",
        "run_count", run_count, "started_ms", at_ms, "delivery." .. delivery .. ".started_ms", at_ms,
        "first_started_ms", run.first_started_ms or at_ms)
    if run.retrying then
        redis.call("HDEL", keys.run .. id, "retrying")
    end
    redis.call("ZREM", keys.unstarted, id)
    event(keys, at_ms, "started", { "run", id, "queue", run.queue, "from", run.state_type,
        "to", "RUNNING", "worker", holder })
end
