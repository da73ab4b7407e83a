-- Delete a pool that is paused with intake and has nothing left but its `default` queue. What it
-- knows of ended runs, workers and limits goes first, some of it at a time, and its hash last; the
-- events stay for its retention.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   deployments
-- KEYS[5]   deployment    prefix of deployment:<d>
-- KEYS[6]   scheduled     prefix of scheduled:<q>
-- KEYS[7]   waits
-- KEYS[8]   freed         prefix of freed:<q>
-- KEYS[9]   newest        prefix of newest:<q>
-- KEYS[10]  unstarted
-- KEYS[11]  stream        prefix of stream:<q>
-- KEYS[12]  ready
-- KEYS[13]  wake          prefix of wake:<q>
-- KEYS[14]  run           prefix of run:<id>
-- KEYS[15]  idempotency   prefix of idempotency:<sha256>
-- KEYS[16]  pool_slots
-- KEYS[17]  queue_slots   prefix of slots:queue:<q>
-- KEYS[18]  holders
-- KEYS[19]  holder        prefix of holder:<h>
-- KEYS[20]  claims        prefix of claims:<h>
-- KEYS[21]  orders        prefix of orders:<h>
-- KEYS[22]  inbox         prefix of inbox:<h>
-- KEYS[23]  workers
-- KEYS[24]  dead
-- KEYS[25]  finished
-- KEYS[26]  events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  limit         most of each kind that is forgotten in this call
-- ARGV[3]  by            who deletes
-- Returns  {word, detail}: deleted | more | not_paused | not_empty what | no_pool
-- Uses     fetch, is_paused, is_shut, now, event, forget_queue, unclaimed_entries, runs_left
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], deployments = KEYS[4],
    deployment = KEYS[5], scheduled = KEYS[6], waits = KEYS[7], freed = KEYS[8], newest = KEYS[9],
    unstarted = KEYS[10], stream = KEYS[11], ready = KEYS[12], wake = KEYS[13], run = KEYS[14],
    idempotency = KEYS[15], pool_slots = KEYS[16], queue_slots = KEYS[17], holders = KEYS[18],
    holder = KEYS[19], claims = KEYS[20], orders = KEYS[21], inbox = KEYS[22], workers = KEYS[23],
    dead = KEYS[24], finished = KEYS[25], events = KEYS[26] }
local at_ms, limit, by = now(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

if redis.call("EXISTS", keys.pool) == 0 then
    return { "no_pool", "" }
elseif not is_shut({ keys.pool }, at_ms) then
    return { "not_paused", "" }
end
local queues = redis.call("ZCARD", keys.queues) - 1
local runs = runs_left(keys, "default") + redis.call("ZCARD", keys.waits)
local dead = redis.call("ZCARD", keys.dead)
if queues > 0 then
    return { "not_empty", "other queues: " .. queues }
elseif runs > 0 then
    return { "not_empty", "runs: " .. runs }
elseif dead > 0 then
    return { "not_empty", "dead letters: " .. dead }
end

-- UNLINK is let through at full memory and opens the way for the rest; it frees in the background.
local more = false
for _, id in ipairs(redis.call("ZRANGE", keys.finished, 0, limit - 1)) do
    local digest = redis.call("HGET", keys.run .. id, "idempotency")
    redis.call("UNLINK", keys.run .. id)
    if digest and digest ~= "" then
        redis.call("UNLINK", keys.idempotency .. digest)
    end
    redis.call("ZREM", keys.finished, id)
    more = true
end
for _, holder in ipairs(redis.call("ZRANGE", keys.holders, 0, limit - 1)) do
    redis.call("UNLINK", keys.holder .. holder, keys.claims .. holder, keys.orders .. holder, keys.inbox .. holder)
    redis.call("ZREM", keys.holders, holder)
    more = true
end
for _, deployment in ipairs(redis.call("SRANDMEMBER", keys.deployments, limit)) do
    redis.call("UNLINK", keys.deployment .. deployment)
    redis.call("SREM", keys.deployments, deployment)
    more = true
end
if more then
    return { "more", "" }
end
forget_queue(keys, "default")
local retention_ms = redis.call("HGET", keys.pool, "retention_ms")
redis.call("DEL", keys.queues, keys.unstarted, keys.pool_slots, keys.workers)
event(keys, at_ms, "pool-deleted", { "by", by })
redis.call("PEXPIRE", keys.events, retention_ms)
redis.call("DEL", keys.pool)
return { "deleted", "" }
