-- Forget dead-lettered runs for good.
--
-- KEYS[1]   pool
-- KEYS[2]   run           prefix of run:<id>
-- KEYS[3]   idempotency   prefix of idempotency:<sha256>
-- KEYS[4]   dead
-- KEYS[5]   events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  by            who does it
-- ARGV[3...]  ids        the runs
-- Returns  how many were dead-lettered and are gone now
-- Uses     fetch, now, event
local keys = { pool = KEYS[1], run = KEYS[2], idempotency = KEYS[3], dead = KEYS[4],
    events = KEYS[5] }
local at_ms, by = now(ARGV[1]), ARGV[2]

local ttl_ms = redis.call("HGET", keys.pool, "idempotency_ttl_ms") or 2592000000
local gone = 0
for i = 3, #ARGV do
    local id = ARGV[i]
    local run = fetch(keys.run .. id, "place", "queue", "state_type", "idempotency", "message")
    if run.place == "dead" then
        redis.call("DEL", keys.run .. id)
        redis.call("ZREM", keys.dead, id)
        if run.idempotency and run.idempotency ~= "" then
            redis.call("PEXPIRE", keys.idempotency .. run.idempotency, ttl_ms)
        end
        event(keys, at_ms, "purged", { "run", id, "queue", run.queue, "from", run.state_type, "reason", run.message, "by", by })
        gone = gone + 1
    end
end
return gone
