-- Put a run that left its stream back to its old place; `dispatch` alone makes entries.
local function schedule_again(keys, id, run)
    redis.call("HSET", keys.run .. id, "place", "scheduled", "state_type", "SCHEDULED",
        "state_name", "Scheduled")
    redis.call("ZADD", keys.scheduled .. run.queue, run.due_ms, run.member)
    if redis.call("ZRANK", keys.scheduled .. run.queue, run.member) == 0 then
        redis.call("PUBLISH", keys.changes, run.queue .. " " .. run.due_ms)
    end
end
