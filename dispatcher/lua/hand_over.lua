-- Move a claim that has not started from the worker that has it to a holder that several share, as
-- the runs in an RQ queue do. Its token stays what it is.
--
-- KEYS[1]   stream        prefix of stream:<q>
-- KEYS[2]   run           prefix of run:<id>
-- KEYS[3]   holder        prefix of holder:<h>
-- KEYS[4]   claims        prefix of claims:<h>
-- KEYS[5]   events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  holder        who has the run from then on; it must be registered
-- Returns  handed_over | cancelling | lost | unknown; unknown when that holder is not there or being recovered; the same again changes nothing
-- Uses     fetch, event, refuse, now
local keys = { stream = KEYS[1], run = KEYS[2], holder = KEYS[3], claims = KEYS[4],
    events = KEYS[5] }
local at_ms, id, token, holder = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local run_key = keys.run .. id
local run = fetch(run_key, "place", "token", "queue", "entry", "holder", "state_type", "delivery")
if run.place ~= "claimed" or run.token ~= token then
    return refuse(keys, id, run, at_ms, "lost", "a hand-over with an old token")
elseif run.holder == holder then
    return "handed_over"
elseif run.state_type == "CANCELLING" then
    return "cancelling"
elseif run.state_type ~= "PENDING" then
    return refuse(keys, id, run, at_ms, "lost", "a hand-over after the start")
end
local him = fetch(keys.holder .. holder, "worker", "dead")
if not him.worker or him.dead then
    return "unknown"
end
-- PERSIST is let through at full memory and opens the way for the rest: what is claimed can run.
redis.call("PERSIST", run_key)
redis.pcall("XCLAIM", keys.stream .. run.queue, "workers", holder, 0, run.entry, "JUSTID") -- its group may be gone
redis.call("SREM", keys.claims .. run.holder, id)
redis.call("SADD", keys.claims .. holder, id)
redis.call("HSET", run_key, "holder", holder, "handed_ms", at_ms, "delivery." .. run.delivery .. ".holder", holder)
event(keys, at_ms, "handed-over", { "run", id, "queue", run.queue, "worker", holder, "by", run.holder })
return "handed_over"
