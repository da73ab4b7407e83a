-- Cancel a run: at once while nobody has claimed it, else by an order to its worker. The order is
-- kept until the run ends, and the run can only end as CANCELLED from here on.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   scheduled     prefix of scheduled:<q>
-- KEYS[5]   waiting       prefix of waiting:<d>:<q>
-- KEYS[6]   waits
-- KEYS[7]   freed         prefix of freed:<q>
-- KEYS[8]   newest        prefix of newest:<q>
-- KEYS[9]   unstarted
-- KEYS[10]  stream        prefix of stream:<q>
-- KEYS[11]  ready
-- KEYS[12]  run           prefix of run:<id>
-- KEYS[13]  idempotency   prefix of idempotency:<sha256>
-- KEYS[14]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[15]  orders        prefix of orders:<h>
-- KEYS[16]  inbox         prefix of inbox:<h>
-- KEYS[17]  finished
-- KEYS[18]  events
-- KEYS[19]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  reason        for people
-- ARGV[4]  by            who cancels
-- Returns  {word, detail}: cancelled | cancelling holder | ended state | unknown
-- Uses     fetch, now, event, place_key, unclaimed_entries, made_room, stop_waiting, is_paused, tell_waiting, drop_entry, free_deployment, unschedule, end_run, nudge
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waiting = KEYS[5], waits = KEYS[6], freed = KEYS[7], newest = KEYS[8], unstarted = KEYS[9],
    stream = KEYS[10], ready = KEYS[11], run = KEYS[12], idempotency = KEYS[13],
    deployment_slots = KEYS[14], orders = KEYS[15], inbox = KEYS[16], finished = KEYS[17],
    events = KEYS[18], changes = KEYS[19] }
local at_ms, id, reason, by = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local run_key = keys.run .. id
local run = fetch(run_key, "place", "queue", "member", "entry", "due_ms", "deployment", "holder", "state_type", "idempotency")
if not run.place then
    return { "unknown", "" }
elseif run.place == "ended" or run.place == "dead" then
    return { "ended", run.state_type }
elseif run.state_type == "CANCELLING" then
    return { "cancelling", run.holder }
elseif run.place == "claimed" then
    -- PERSIST is let through at full memory and opens the way for the rest: this ends a run.
    redis.call("PERSIST", run_key)
    redis.call("HSET", run_key, "state_type", "CANCELLING", "state_name", "Cancelling", "message", reason)
    redis.call("ZREM", keys.unstarted, id)
    redis.call("SADD", keys.orders .. run.holder, id)
    nudge(keys.inbox .. run.holder)
    event(keys, at_ms, "cancelling", { "run", id, "queue", run.queue, "from", run.state_type,
        "to", "CANCELLING", "worker", run.holder, "reason", reason, "by", by })
    return { "cancelling", run.holder }
end
unschedule(keys, id, run, at_ms)
end_run(keys, id, run, at_ms, "CANCELLED", "Cancelled", reason)
event(keys, at_ms, "cancelled", { "run", id, "queue", run.queue, "from", run.state_type,
    "to", "CANCELLED", "reason", reason, "by", by })
return { "cancelled", "" }
