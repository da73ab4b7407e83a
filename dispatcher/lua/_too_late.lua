-- Why a run is not to run any more by its queue's policy for late runs; false when it is to run.
-- A run that was claimed before, or that waited for its deployment, is not asked.
local function too_late(keys, queue, settings, run, at_ms, late_after_ms)
    local late_ms = at_ms - run.due_ms
    if run.claimed_ms or run.waited or late_ms <= 0 then
        return false
    elseif settings.late_drop_ms and late_ms > tonumber(settings.late_drop_ms) then
        return "late by more than " .. settings.late_drop_ms / 1000 .. " s, which its queue drops"
    elseif settings.late_policy ~= "latest" or late_ms < late_after_ms or run.deployment == "" then
        return false
    end
    local newest = redis.call("HGET", keys.newest .. queue, run.deployment)
    return newest and newest > place_key(run.due_ms, run.member)
        and "late, and a later run of its deployment is due"
end
