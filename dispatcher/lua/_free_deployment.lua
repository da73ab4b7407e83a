-- Take a run's slot of its deployment away, and tell those that wait for one.
local function free_deployment(keys, id, deployment, at_ms)
    if deployment and deployment ~= "" and redis.call("ZREM", keys.deployment_slots .. deployment, id) == 1 then
        tell_waiting(keys, deployment, at_ms)
    end
end
