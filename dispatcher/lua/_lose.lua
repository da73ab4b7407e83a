-- Take a run from a holder that died: back to its place, or set aside after too many losses.
-- A claim that never started is not held against the run, unless that happens ten times.
-- Answers "requeued", "dead", or false when the holder does not have this run.
local function lose(keys, id, holder, at_ms)
    local run_key = keys.run .. id
    local run = fetch(run_key, "place", "holder", "queue", "entry", "member", "due_ms",
        "state_type", "delivery", "losses", "unstarted")
    if run.place ~= "claimed" or run.holder ~= holder then
        return false
    end
    drop_entry(keys, run.queue, run.entry)
    close_delivery(run_key, run.delivery, at_ms, "lost")
    local started = run.state_type == "RUNNING"
    local times = redis.call("HINCRBY", run_key, started and "losses" or "unstarted", 1)
    local most = 10
    if started then
        most = tonumber(redis.call("HGET", keys.queue .. run.queue, "max_deliveries") or 3)
    end
    if times < most then
        schedule_again(keys, id, run)
        event(keys, at_ms, "lost", { "run", id, "queue", run.queue, "from", run.state_type,
            "to", "SCHEDULED", "worker", holder, "reason", started and "while running" or "before start" })
        return "requeued"
    end
    local reason = (started and "lost while running " or "claimed without a start ") .. times .. " times"
    redis.call("HSET", run_key, "place", "dead", "state_type", "CRASHED", "state_name", "Crashed",
        "message", reason, "ended_ms", at_ms)
    redis.call("ZADD", keys.dead, at_ms, id)
    event(keys, at_ms, "dead", { "run", id, "queue", run.queue, "from", run.state_type,
        "to", "CRASHED", "worker", holder, "reason", reason })
    return "dead"
end
