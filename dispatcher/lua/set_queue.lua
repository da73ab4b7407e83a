-- Change settings of a queue; they hold from now on. A taken priority moves the others down.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   newest        prefix of newest:<q>
-- KEYS[5]   stream        prefix of stream:<q>
-- KEYS[6]   ready
-- KEYS[7]   wake          prefix of wake:<q>
-- KEYS[8]   queue_slots   prefix of slots:queue:<q>
-- KEYS[9]   events
-- KEYS[10]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  name          of the queue, encoded
-- ARGV[3]  priority      1 first; empty: as it is
-- ARGV[4]  fields        flat list of settings as JSON: names and values, all strings; an empty value takes one away
-- ARGV[5]  by            who does it
-- Returns  set | no_pool | no_queue
-- Uses     now, place_queue, event, fetch, is_paused, unclaimed_entries, room, nudge, offer, change
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], newest = KEYS[4],
    stream = KEYS[5], ready = KEYS[6], wake = KEYS[7], queue_slots = KEYS[8], events = KEYS[9],
    changes = KEYS[10] }
local at_ms, name, priority = now(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local fields, by = cjson.decode(ARGV[4]), ARGV[5]

if redis.call("EXISTS", keys.pool) == 0 then
    return "no_pool"
elseif not redis.call("ZSCORE", keys.queues, name) then
    return "no_queue"
end
local told = change(keys.queue .. name, fields)
redis.call("HDEL", keys.queue .. name, "blocked") -- what is still full is found so again
if priority then
    place_queue(keys, name, priority)
    told = "priority=" .. priority .. " " .. told
end
if redis.call("HGET", keys.queue .. name, "late_policy") ~= "latest" then
    redis.call("DEL", keys.newest .. name)
    redis.call("HDEL", keys.queue .. name, "seen_until")
end
event(keys, at_ms, "queue-set", { "queue", name, "reason", told, "by", by })
offer(keys, name, at_ms)
redis.call("PUBLISH", keys.changes, name .. " 0")
return "set"
