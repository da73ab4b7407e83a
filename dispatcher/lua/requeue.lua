-- Take a run out of the dead letters: it is scheduled again, and its losses are forgotten.
--
-- KEYS[1]   queues
-- KEYS[2]   scheduled     prefix of scheduled:<q>
-- KEYS[3]   unstarted
-- KEYS[4]   run           prefix of run:<id>
-- KEYS[5]   dead
-- KEYS[6]   events
-- KEYS[7]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  due_ms        empty: now
-- ARGV[4]  by            who does it
-- Returns  {word, detail}: requeued due_ms | not_dead state | no_queue queue | unknown
-- Uses     fetch, now, event, schedule_again
local keys = { queues = KEYS[1], scheduled = KEYS[2], unstarted = KEYS[3], run = KEYS[4],
    dead = KEYS[5], events = KEYS[6], changes = KEYS[7] }
local at_ms, id, due_ms, by = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local run = fetch(keys.run .. id, "place", "queue", "member", "state_type")
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
