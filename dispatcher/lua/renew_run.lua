-- Say that the work of a run that was handed over goes on, and hear what is to become of it. The
-- first who says so is the only one who may. It prolongs the lease of the run's holder, too.
--
-- KEYS[1]   pool
-- KEYS[2]   run           prefix of run:<id>
-- KEYS[3]   holders
-- KEYS[4]   holder        prefix of holder:<h>
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  holder        to whom the run was handed over
-- ARGV[5]  executor      what works on it: <name>.<incarnation>
-- Returns  {word, lease_ms, renew_ms}: renewed | cancelling | lost
-- Uses     fetch, now
local keys = { pool = KEYS[1], run = KEYS[2], holders = KEYS[3], holder = KEYS[4] }
local at_ms, id, token, holder, executor = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local run_key = keys.run .. id
local run = fetch(run_key, "place", "token", "holder", "state_type", "executor")
local him = fetch(keys.holder .. holder, "worker", "dead")
local is_mine = run.place == "claimed" and run.token == token and run.holder == holder
if not is_mine or (run.executor and run.executor ~= executor) or not him.worker or him.dead then
    return { "lost", 0, 0 }
end
-- PERSIST is let through at full memory and opens the way for the rest: work goes on.
redis.call("PERSIST", run_key)
redis.call("HSET", run_key, "executor", executor, "renewed_ms", at_ms)
local pool = fetch(keys.pool, "lease_ms", "renew_ms")
redis.call("ZADD", keys.holders, "GT", at_ms + pool.lease_ms, holder)
return { run.state_type == "CANCELLING" and "cancelling" or "renewed", tonumber(pool.lease_ms), tonumber(pool.renew_ms) }
