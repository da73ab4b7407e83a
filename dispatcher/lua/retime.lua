-- Give a run that nobody has claimed another due time; it keeps its place number.
--
-- KEYS[1]   queues
-- KEYS[2]   queue         prefix of queue:<q>
-- KEYS[3]   scheduled     prefix of scheduled:<q>
-- KEYS[4]   waiting       prefix of waiting:<d>:<q>
-- KEYS[5]   waits
-- KEYS[6]   freed         prefix of freed:<q>
-- KEYS[7]   newest        prefix of newest:<q>
-- KEYS[8]   unstarted
-- KEYS[9]   stream        prefix of stream:<q>
-- KEYS[10]  ready
-- KEYS[11]  run           prefix of run:<id>
-- KEYS[12]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[13]  events
-- KEYS[14]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  due_ms        empty: now
-- ARGV[4]  by            who does it
-- Returns  {word, detail}: retimed due_ms | claimed holder | ended state | unknown
-- Uses     fetch, now, event, place_key, unclaimed_entries, made_room, stop_waiting, is_paused, tell_waiting, drop_entry, free_deployment, unschedule, note_newest, note_behind, schedule_again
local keys = { queues = KEYS[1], queue = KEYS[2], scheduled = KEYS[3], waiting = KEYS[4],
    waits = KEYS[5], freed = KEYS[6], newest = KEYS[7], unstarted = KEYS[8], stream = KEYS[9],
    ready = KEYS[10], run = KEYS[11], deployment_slots = KEYS[12], events = KEYS[13],
    changes = KEYS[14] }
local at_ms, id, due_ms, by = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local run = fetch(keys.run .. id, "place", "queue", "member", "entry", "deployment", "holder",
    "state_type", "state_name", "due_ms")
if not run.place then
    return { "unknown", "" }
elseif run.place == "ended" or run.place == "dead" then
    return { "ended", run.state_type }
elseif run.place == "claimed" then
    return { "claimed", run.holder }
end
if due_ms == "" then
    due_ms = string.format("%.0f", at_ms)
end
if run.due_ms == due_ms then
    return { "retimed", due_ms }
end
unschedule(keys, id, run, at_ms)
run.due_ms = due_ms
schedule_again(keys, id, run)
redis.call("ZADD", keys.unstarted, due_ms, id)
redis.call("HDEL", keys.run .. id, "late_ms")
event(keys, at_ms, "retimed", { "run", id, "queue", run.queue, "due_ms", due_ms, "by", by })
return { "retimed", due_ms }
