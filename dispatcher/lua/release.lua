-- Give a claimed run back unfinished, to its old place, or to be run again after a delay that its
-- work asked for; it counts as nobody's loss. An operator may do that to somebody's claim: the
-- holder is told to compare, and stops what it lost.
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
-- KEYS[21]  finished
-- KEYS[22]  events
-- KEYS[23]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  reason        for people
-- ARGV[5]  nudge         1: the holder waits for a free slot
-- ARGV[6]  by            who took the claim away; empty for the holder itself
-- ARGV[7]  delay_ms      how long from now it is due again, as AwaitingRetry; empty: it stays due when it was
-- Returns  released | rescheduled | finished | lost; rescheduled after a delay; finished when it was being cancelled; the same token again gets the first answer again
-- Uses     fetch, event, refuse, now, close_delivery, is_paused, unclaimed_entries, room, nudge, offer, tell_waiting, free_deployment, free_slots, drop_entry, close_claim, end_run, place_key, note_newest, note_behind, schedule_again
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waits = KEYS[5], freed = KEYS[6], newest = KEYS[7], unstarted = KEYS[8], stream = KEYS[9],
    ready = KEYS[10], wake = KEYS[11], run = KEYS[12], idempotency = KEYS[13],
    pool_slots = KEYS[14], queue_slots = KEYS[15], deployment_slots = KEYS[16], holder = KEYS[17],
    claims = KEYS[18], orders = KEYS[19], inbox = KEYS[20], finished = KEYS[21], events = KEYS[22],
    changes = KEYS[23] }
local at_ms, id, token, reason = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local wants_nudge, by, delay_ms = ARGV[5] == "1", ARGV[6], tonumber(ARGV[7])

local run_key = keys.run .. id
local run = fetch(run_key, "place", "token", "queue", "entry", "holder", "member", "due_ms", "state_type",
    "state_name", "delivery", "started_ms", "deployment", "idempotency", "message", "answer_token", "answer")
if run.answer_token == token and run.answer ~= "retrying" then
    return run.answer
elseif run.place ~= "claimed" or run.token ~= token then
    return refuse(keys, id, run, at_ms, "lost", "a release with an old token")
end

close_claim(keys, id, run, at_ms, "released")
local answer, what, due_ms = "released", "released", nil
if run.state_type == "CANCELLING" then
    answer, what = "finished", "finished"
    end_run(keys, id, run, at_ms, "CANCELLED", "Cancelled", run.message or "")
else
    if delay_ms then
        answer, what, due_ms = "rescheduled", "retrying", string.format("%.0f", at_ms + delay_ms)
        run.due_ms, run.state_name = due_ms, "AwaitingRetry"
        redis.call("ZADD", keys.unstarted, due_ms, id)
        redis.call("HSET", run_key, "retrying", "1", "message", reason)
    end
    schedule_again(keys, id, run)
end
redis.call("HSET", run_key, "answer_token", token, "answer", answer)
event(keys, at_ms, what, { "run", id, "queue", run.queue, "from", run.state_type,
    "to", answer == "finished" and "CANCELLED" or "SCHEDULED", "worker", run.holder, "due_ms", due_ms or "",
    "reason", reason, "by", by })
if by ~= "" and redis.call("EXISTS", keys.holder .. run.holder) == 1 then
    -- One difference is on record: the renewal that this asks for answers `compare` at once.
    redis.call("HSET", keys.holder .. run.holder, "differs", "1")
    nudge(keys.inbox .. run.holder)
elseif wants_nudge then
    nudge(keys.inbox .. run.holder)
end
return answer
