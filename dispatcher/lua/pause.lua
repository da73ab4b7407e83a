-- Pause a pool or a queue: it hands out nothing from now on, or with `intake` accepts nothing.
-- What is in its streams goes back by `withdraw`.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   ready
-- KEYS[5]   events
-- KEYS[6]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  name          of the queue, encoded; empty: the pool
-- ARGV[3]  intake        1: refuse submits
-- ARGV[4]  until_ms      when the pause ends by itself; empty: never
-- ARGV[5]  reason        for people
-- ARGV[6]  by            who pauses
-- Returns  paused | no_pool | no_queue
-- Uses     fetch, now, event
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], ready = KEYS[4], events = KEYS[5],
    changes = KEYS[6] }
local at_ms, name, kind = now(ARGV[1]), ARGV[2], ARGV[3] == "1" and "intake_paused" or "paused"
local until_ms, reason, by = ARGV[4], ARGV[5], ARGV[6]

if redis.call("EXISTS", keys.pool) == 0 then
    return "no_pool"
elseif name ~= "" and not redis.call("ZSCORE", keys.queues, name) then
    return "no_queue"
end
local key = name == "" and keys.pool or keys.queue .. name
local before = fetch(key, kind, kind .. "_until_ms", kind .. "_reason", kind .. "_by")
if before[kind] and (before[kind .. "_until_ms"] or "") == until_ms
    and before[kind .. "_reason"] == reason and before[kind .. "_by"] == by then
    return "paused"
end
-- Deleting is let through at full memory and opens the way for the rest: operators can help.
redis.call("HDEL", key, kind .. "_until_ms")
redis.call("HSET", key, kind, "1", kind .. "_ms", at_ms, kind .. "_reason", reason, kind .. "_by", by)
if until_ms ~= "" then
    redis.call("HSET", key, kind .. "_until_ms", until_ms)
end
event(keys, at_ms, kind == "paused" and "paused" or "intake-paused",
    { "queue", name, "until_ms", until_ms, "reason", reason, "by", by })
if kind == "paused" then
    if name ~= "" then
        redis.call("ZREM", keys.ready, name)
    end
    -- Dispatchers look again at the end of the pause, and so hear of it now.
    redis.call("PUBLISH", keys.changes, name .. " 0")
end
return "paused"
