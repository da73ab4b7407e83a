-- Cancel a run that nobody has claimed because a rule says so; it is counted with its queue.
local function skip(keys, id, run, at_ms, reason)
    end_run(keys, id, run, at_ms, "CANCELLED", "Cancelled", reason)
    redis.call("HINCRBY", keys.queue .. run.queue, "skipped", 1)
    event(keys, at_ms, "skipped", { "run", id, "queue", run.queue, "from", "SCHEDULED",
        "to", "CANCELLED", "reason", reason })
end
