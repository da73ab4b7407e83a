-- Note a due run of a deployment if it is the newest one that is known of its queue.
local function note_newest(keys, queue, deployment, place)
    local newest = redis.call("HGET", keys.newest .. queue, deployment)
    if deployment ~= "" and (not newest or newest < place) then
        redis.call("HSET", keys.newest .. queue, deployment, place)
    end
end
