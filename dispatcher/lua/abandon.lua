-- Take one run back from a holder that goes on, as what worked on it there is gone: to its place,
-- or set aside after too many losses, as after the death of a worker.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   scheduled     prefix of scheduled:<q>
-- KEYS[5]   waits
-- KEYS[6]   freed         prefix of freed:<q>
-- KEYS[7]   newest        prefix of newest:<q>
-- KEYS[8]   unstarted
-- KEYS[9]   stream        prefix of stream:<q>
-- KEYS[10]  ready
-- KEYS[11]  wake          prefix of wake:<q>
-- KEYS[12]  run           prefix of run:<id>
-- KEYS[13]  idempotency   prefix of idempotency:<sha256>
-- KEYS[14]  pool_slots
-- KEYS[15]  queue_slots   prefix of slots:queue:<q>
-- KEYS[16]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[17]  holder        prefix of holder:<h>
-- KEYS[18]  claims        prefix of claims:<h>
-- KEYS[19]  orders        prefix of orders:<h>
-- KEYS[20]  inbox         prefix of inbox:<h>
-- KEYS[21]  dead
-- KEYS[22]  finished
-- KEYS[23]  events
-- KEYS[24]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  reason        for people; empty: it was lost
-- Returns  requeued | dead | ended | lost; lost for an old token, so also when it is repeated
-- Uses     fetch, event, refuse, now, close_delivery, is_paused, unclaimed_entries, room, nudge, offer, tell_waiting, free_deployment, free_slots, drop_entry, close_claim, end_run, place_key, note_newest, note_behind, schedule_again, lose
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waits = KEYS[5], freed = KEYS[6], newest = KEYS[7], unstarted = KEYS[8], stream = KEYS[9],
    ready = KEYS[10], wake = KEYS[11], run = KEYS[12], idempotency = KEYS[13],
    pool_slots = KEYS[14], queue_slots = KEYS[15], deployment_slots = KEYS[16], holder = KEYS[17],
    claims = KEYS[18], orders = KEYS[19], inbox = KEYS[20], dead = KEYS[21], finished = KEYS[22],
    events = KEYS[23], changes = KEYS[24] }
local at_ms, id, token, reason = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local run = fetch(keys.run .. id, "place", "token", "queue", "holder")
if run.place ~= "claimed" or run.token ~= token then
    return refuse(keys, id, run, at_ms, "lost", "a loss with an old token")
end
local fate = lose(keys, id, run.holder, at_ms, reason)
if redis.call("EXISTS", keys.holder .. run.holder) == 1 then
    nudge(keys.inbox .. run.holder) -- it has room again
end
return fate
