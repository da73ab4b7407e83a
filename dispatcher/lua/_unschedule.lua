-- Take a run that nobody has claimed from where it is: its schedule, its waiting set, its stream.
local function unschedule(keys, id, run, at_ms)
    -- The latest run of a deployment that is due no more stands in the way of no earlier one.
    if redis.call("HGET", keys.newest .. run.queue, run.deployment) == place_key(run.due_ms, run.member) then
        redis.call("HDEL", keys.newest .. run.queue, run.deployment)
        redis.call("HDEL", keys.queue .. run.queue, "seen_until")
    end
    if run.place == "scheduled" then
        redis.call("ZREM", keys.scheduled .. run.queue, run.member)
        if run.deployment ~= "" then
            tell_waiting(keys, run.deployment, at_ms) -- it may have been let in, and the next one not
        end
    elseif run.place == "waiting" then
        if stop_waiting(keys, run) then
            tell_waiting(keys, run.deployment, at_ms) -- other queues may have left the slot to this one
        end
    else
        drop_entry(keys, run.queue, run.entry)
        redis.call("HDEL", keys.run .. id, "entry")
        made_room(keys, run.queue, run.payload_bytes or redis.call("HSTRLEN", keys.run .. id, "payload"))
        free_deployment(keys, id, run.deployment, at_ms)
    end
end
