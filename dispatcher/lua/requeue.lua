-- Take a run out of the dead letters: it is scheduled again, and its losses are forgotten.
--
-- KEYS[1]   queues
-- KEYS[2]   queue         prefix of queue:<q>
-- KEYS[3]   scheduled     prefix of scheduled:<q>
-- KEYS[4]   newest        prefix of newest:<q>
-- KEYS[5]   unstarted
-- KEYS[6]   run           prefix of run:<id>
-- KEYS[7]   dead
-- KEYS[8]   events
-- KEYS[9]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  due_ms        empty: now
-- ARGV[4]  by            who does it
-- Returns  {word, detail}: requeued due_ms | not_dead state | no_queue queue | unknown
-- Uses     fetch, now, event, place_key, note_newest, note_behind, schedule_again
local keys = { queues = KEYS[1], queue = KEYS[2], scheduled = KEYS[3], newest = KEYS[4],
    unstarted = KEYS[5], run = KEYS[6], dead = KEYS[7], events = KEYS[8], changes = KEYS[9] }
local at_ms, id, due_ms, by = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local run = fetch(keys.run .. id, "place", "queue", "member", "state_type", "deployment")
if not run.place then
    return { "unknown", "" }
elseif run.place ~= "dead" then
    return { "not_dead", run.state_type }
elseif not redis.call("ZSCORE", keys.queues, run.queue) then
    return { "no_queue", run.queue } -- deleted since
end
run.due_ms = due_ms == "" and string.format("%.0f", at_ms) or due_ms
schedule_again(keys, id, run)
redis.call("HDEL", keys.run .. id, "losses", "unstarted", "message", "ended_ms", "late_ms")
redis.call("ZADD", keys.unstarted, run.due_ms, id)
redis.call("ZREM", keys.dead, id)
event(keys, at_ms, "requeued", { "run", id, "queue", run.queue, "from", run.state_type,
    "to", "SCHEDULED", "due_ms", run.due_ms, "by", by })
return { "requeued", run.due_ms }
