-- Announce what nobody has started in time, each run once, and queues that no live worker serves.
--
-- KEYS[1]   pool
-- KEYS[2]   queue         prefix of queue:<q>
-- KEYS[3]   unstarted
-- KEYS[4]   run           prefix of run:<id>
-- KEYS[5]   holders
-- KEYS[6]   holder        prefix of holder:<h>
-- KEYS[7]   events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  limit         most runs announced in this call
-- Returns  {word, more, late_at_ms, {run, queue, …}, {queue, …}}: watched | no_pool; late_at_ms is when there is something to announce again; then the late runs, and the queues that nobody serves
-- Uses     fetch, now, event
local keys = { pool = KEYS[1], queue = KEYS[2], unstarted = KEYS[3], run = KEYS[4],
    holders = KEYS[5], holder = KEYS[6], events = KEYS[7] }
local at_ms, limit = now(ARGV[1]), tonumber(ARGV[2])

local late_after_ms = redis.call("HGET", keys.pool, "late_after_ms") or 15000
if redis.call("EXISTS", keys.pool) == 0 then
    return { "no_pool", 0, "", {}, {} }
end

local holders
local function is_served(queue)
    if not holders then
        holders = {}
        for _, holder in ipairs(redis.call("ZRANGE", keys.holders, "(" .. at_ms, "+inf", "BYSCORE", "LIMIT", 0, 1000)) do
            local him = fetch(keys.holder .. holder, "queues", "draining", "dead", "worker")
            him.dead = him.dead or him.worker == holder -- one that several share claims nothing
            if him.queues and not him.draining and not him.dead then
                holders[#holders + 1] = " " .. him.queues .. " "
            end
        end
    end
    for _, queues in ipairs(holders) do
        if queues == "  " or string.find(queues, " " .. queue .. " ", 1, true) then
            return true
        end
    end
    return false
end

local late, unserved, looked = {}, {}, {}
local function look(queue)
    if looked[queue] then
        return
    end
    looked[queue] = true
    if not is_served(queue) and redis.call("HSETNX", keys.queue .. queue, "unserved_ms", at_ms) == 1 then
        unserved[#unserved + 1] = queue
        event(keys, at_ms, "unserved", { "queue", queue, "reason", "due runs and no live worker for this queue" })
    end
end

local ids = redis.call("ZRANGE", keys.unstarted, "-inf", at_ms - late_after_ms, "BYSCORE", "LIMIT", 0, limit)
for _, id in ipairs(ids) do
    local run = fetch(keys.run .. id, "place", "queue", "state_type", "state_name", "due_ms", "holder", "started_ms", "late_ms")
    redis.call("ZREM", keys.unstarted, id)
    if run.place == "stream" then
        look(run.queue)
    end
    -- A run that waits for its retry or for a slot is not late (Prefect's Late service).
    if run.place and not run.started_ms and not run.late_ms and (run.state_type == "PENDING" or run.state_name == "Scheduled" or run.state_name == "Late") then
        redis.call("HSET", keys.run .. id, "late_ms", at_ms)
        late[#late + 1] = id
        late[#late + 1] = run.queue
        event(keys, at_ms, "late", { "run", id, "queue", run.queue, "due_ms", run.due_ms,
            "from", run.state_type, "worker", run.holder })
    end
end
local head = redis.call("ZRANGE", keys.unstarted, 0, 0, "WITHSCORES")
return { "watched", #ids == limit and 1 or 0, head[2] and string.format("%.0f", head[2] + late_after_ms) or "", late, unserved }
