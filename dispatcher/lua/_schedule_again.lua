-- Put a run back to its place in the schedule; `dispatch` alone makes entries.
local function schedule_again(keys, id, run)
    local state_name = run.state_name == "AwaitingRetry" and "AwaitingRetry" or "Scheduled"
    redis.call("HSET", keys.run .. id, "place", "scheduled", "state_type", "SCHEDULED",
        "state_name", state_name, "due_ms", run.due_ms)
    redis.call("ZADD", keys.scheduled .. run.queue, run.due_ms, run.member)
    note_behind(keys, run.queue, run.deployment, place_key(run.due_ms, run.member))
    if redis.call("ZRANK", keys.scheduled .. run.queue, run.member) == 0 then
        redis.call("PUBLISH", keys.changes, run.queue .. " " .. run.due_ms)
    end
end
