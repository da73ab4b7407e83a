-- Note a run that comes into the schedule behind what has been seen of it under `late_policy` latest:
-- nobody looks there once more.
local function note_behind(keys, queue, deployment, place)
    local seen_until = redis.call("HGET", keys.queue .. queue, "seen_until")
    if seen_until and deployment and place < seen_until then
        note_newest(keys, queue, deployment, place)
    end
end
