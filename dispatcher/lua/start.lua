-- Mark a claimed run as running; only for the holder of its token, and not when it is to be cancelled.
--
-- KEYS[1]   unstarted
-- KEYS[2]   run           prefix of run:<id>
-- KEYS[3]   events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  run_count     what it is with this start; the same again changes nothing
-- Returns  started | cancelling | lost
-- Uses     fetch, event, refuse, now, begin
local keys = { unstarted = KEYS[1], run = KEYS[2], events = KEYS[3] }
local at_ms, id, token, run_count = now(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])

local run_key = keys.run .. id
local run = fetch(run_key, "place", "token", "state_type", "run_count", "delivery", "queue", "holder", "retrying",
    "first_started_ms")
if run.place ~= "claimed" or run.token ~= token then
    return refuse(keys, id, run, at_ms, "lost", "a start with an old token")
elseif run.state_type == "CANCELLING" then
    return "cancelling"
elseif tonumber(run.run_count) == run_count and run.state_type == "RUNNING" then
    return "started"
elseif tonumber(run.run_count) + 1 ~= run_count then
    return refuse(keys, id, run, at_ms, "lost", "a start with an old run count")
end
-- PERSIST is let through at full memory and opens the way for the rest: work goes on.
redis.call("PERSIST", run_key)
begin(keys, id, run, run.delivery, run_count, run.holder, at_ms)
return "started"
