-- End a pause of a pool or a queue, of hand-out or with `intake` of submits.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   stream        prefix of stream:<q>
-- KEYS[5]   ready
-- KEYS[6]   wake          prefix of wake:<q>
-- KEYS[7]   queue_slots   prefix of slots:queue:<q>
-- KEYS[8]   events
-- KEYS[9]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  name          of the queue, encoded; empty: the pool
-- ARGV[3]  intake        1: accept submits again
-- ARGV[4]  by            who resumes
-- Returns  resumed | not_paused | no_pool | no_queue
-- Uses     now, event, fetch, is_paused, unclaimed_entries, room, nudge, offer
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], stream = KEYS[4], ready = KEYS[5],
    wake = KEYS[6], queue_slots = KEYS[7], events = KEYS[8], changes = KEYS[9] }
local at_ms, name, kind, by = now(ARGV[1]), ARGV[2], ARGV[3] == "1" and "intake_paused" or "paused", ARGV[4]

if redis.call("EXISTS", keys.pool) == 0 then
    return "no_pool"
elseif name ~= "" and not redis.call("ZSCORE", keys.queues, name) then
    return "no_queue"
end
local key = name == "" and keys.pool or keys.queue .. name
-- Deleting is let through at full memory and opens the way for the rest.
if redis.call("HDEL", key, kind, kind .. "_until_ms", kind .. "_reason", kind .. "_by", kind .. "_ms") == 0 then
    return "not_paused"
end
event(keys, at_ms, kind == "paused" and "resumed" or "intake-resumed", { "queue", name, "by", by })
if kind == "paused" then
    if name ~= "" then
        offer(keys, name, at_ms)
    end
    redis.call("PUBLISH", keys.changes, name .. " 0")
end
return "resumed"
