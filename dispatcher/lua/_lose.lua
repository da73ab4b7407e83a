-- Take a run from a holder that died: back to its place, or set aside after too many losses.
-- A claim that never started is not held against the run, unless that happens ten times.
-- `why` says more than that it was lost; empty or nil for no more. Answers "requeued", "dead",
-- "ended", or false when the holder does not have this run.
local function lose(keys, id, holder, at_ms, why)
    local run_key = keys.run .. id
    local run = fetch(run_key, "place", "holder", "queue", "entry", "member", "due_ms", "state_type",
        "state_name", "delivery", "losses", "unstarted", "deployment", "started_ms", "idempotency", "message")
    if run.place ~= "claimed" or run.holder ~= holder then
        return false
    end
    close_claim(keys, id, run, at_ms, "lost")
    local settings = fetch(keys.queue .. run.queue, "max_deliveries", "on_worker_lost")
    local function finished(state_type, state_name, reason)
        end_run(keys, id, run, at_ms, state_type, state_name, reason)
        event(keys, at_ms, "finished", { "run", id, "queue", run.queue, "from", run.state_type,
            "to", state_type, "worker", holder, "reason", reason })
        return "ended"
    end
    local started = run.state_type == "RUNNING"
    local because = why and why ~= "" and ": " .. why or ""
    if run.state_type == "CANCELLING" then
        return finished("CANCELLED", "Cancelled", run.message or "")
    end
    local times = redis.call("HINCRBY", run_key, started and "losses" or "unstarted", 1)
    if started and settings.on_worker_lost == "crash" then
        return finished("CRASHED", "Crashed", "its worker was lost while running it" .. because)
    end
    if times < (started and tonumber(settings.max_deliveries or 3) or 10) then
        schedule_again(keys, id, run)
        event(keys, at_ms, "lost", { "run", id, "queue", run.queue, "from", run.state_type,
            "to", "SCHEDULED", "worker", holder, "reason", (started and "while running" or "before start") .. because })
        return "requeued"
    end
    local reason = (started and "lost while running " or "claimed without a start ") .. times .. (times == 1 and " time" or " times") .. because
    redis.call("HSET", run_key, "place", "dead", "state_type", "CRASHED", "state_name", "Crashed",
        "message", reason, "ended_ms", at_ms)
    redis.call("ZADD", keys.dead, at_ms, id)
    redis.call("ZREM", keys.unstarted, id)
    event(keys, at_ms, "dead", { "run", id, "queue", run.queue, "from", run.state_type,
        "to", "CRASHED", "worker", holder, "reason", reason })
    return "dead"
end
