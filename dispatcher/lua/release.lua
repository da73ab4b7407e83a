-- Give a claimed run back unfinished, to its old place; it counts as nobody's loss.
--
-- KEYS[1]  run           prefix of run:<id>
-- KEYS[2]  scheduled     prefix of scheduled:<q>
-- KEYS[3]  stream        prefix of stream:<q>
-- KEYS[4]  claims        prefix of claims:<h>
-- KEYS[5]  inbox         prefix of inbox:<h>
-- KEYS[6]  events
-- KEYS[7]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  reason        for people
-- ARGV[5]  nudge         1: the holder waits for a free slot
-- Returns  released | lost; the same token again gets the first answer again
-- Uses     now, event, fetch, nudge, drop_entry, close_delivery, schedule_again
local keys = { run = KEYS[1], scheduled = KEYS[2], stream = KEYS[3], claims = KEYS[4],
    inbox = KEYS[5], events = KEYS[6], changes = KEYS[7] }
local at_ms, id, token, reason, wants_nudge = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == "1"

local run_key = keys.run .. id
local run = fetch(run_key, "place", "token", "queue", "entry", "holder", "member", "due_ms",
    "state_type", "delivery", "answer_token", "answer")
if run.answer_token == token then
    return run.answer
elseif run.place ~= "claimed" or run.token ~= token then
    return "lost"
end

drop_entry(keys, run.queue, run.entry)
close_delivery(run_key, run.delivery, at_ms, "released")
redis.call("SREM", keys.claims .. run.holder, id)
redis.call("HSET", run_key, "answer_token", token, "answer", "released")
schedule_again(keys, id, run)
event(keys, at_ms, "released", { "run", id, "queue", run.queue, "from", run.state_type,
    "to", "SCHEDULED", "worker", run.holder, "reason", reason })
if wants_nudge then
    nudge(keys.inbox .. run.holder)
end
return "released"
