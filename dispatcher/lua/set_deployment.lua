-- Set the concurrency limit of a deployment, or take it away; it holds from now on.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   deployments
-- KEYS[5]   deployment    prefix of deployment:<d>
-- KEYS[6]   waits
-- KEYS[7]   freed         prefix of freed:<q>
-- KEYS[8]   events
-- KEYS[9]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  deployment    id
-- ARGV[3]  limit         empty: none
-- ARGV[4]  strategy      ENQUEUE | CANCEL_NEW: what happens to a run that finds it full
-- ARGV[5]  by            who does it
-- Returns  set | no_pool
-- Uses     now, event, fetch, is_paused, tell_waiting
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], deployments = KEYS[4],
    deployment = KEYS[5], waits = KEYS[6], freed = KEYS[7], events = KEYS[8], changes = KEYS[9] }
local at_ms, deployment, limit, strategy, by = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if redis.call("EXISTS", keys.pool) == 0 then
    return "no_pool"
end
-- PERSIST is let through at full memory and opens the way for the rest: operators can help.
redis.call("PERSIST", keys.deployment .. deployment)
if limit == "" then
    redis.call("DEL", keys.deployment .. deployment)
    redis.call("SREM", keys.deployments, deployment)
else
    redis.call("HSET", keys.deployment .. deployment, "limit", limit, "collision_strategy", strategy)
    redis.call("SADD", keys.deployments, deployment)
end
event(keys, at_ms, "deployment-set", { "deployment", deployment, "limit", limit, "by", by,
    "reason", limit == "" and "no limit" or strategy })
tell_waiting(keys, deployment, at_ms)
return "set"
