-- Take a run out of the set in which it waits for its deployment. The last one takes what says
-- that somebody waits there along; answers whether the word of a free slot went with it.
local function stop_waiting(keys, run)
    local waiting = keys.waiting .. run.deployment .. ":" .. run.queue
    redis.call("ZREM", waiting, run.member)
    if redis.call("EXISTS", waiting) == 0 then
        redis.call("ZREM", keys.waits, run.deployment .. " " .. run.queue)
        return redis.call("SREM", keys.freed .. run.queue, run.deployment) == 1
    end
    return false
end
