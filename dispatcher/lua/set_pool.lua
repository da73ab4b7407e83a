-- Change settings of a pool; they hold from now on. Whoever was kept out by one looks again.
--
-- KEYS[1]   pool
-- KEYS[2]   ready
-- KEYS[3]   wake          prefix of wake:<q>
-- KEYS[4]   events
-- KEYS[5]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  fields        flat list of settings as JSON: names and values, all strings; an empty value takes one away
-- ARGV[3]  by            who does it
-- Returns  set | no_pool
-- Uses     now, event, change, nudge
local keys = { pool = KEYS[1], ready = KEYS[2], wake = KEYS[3], events = KEYS[4],
    changes = KEYS[5] }
local at_ms, fields, by = now(ARGV[1]), cjson.decode(ARGV[2]), ARGV[3]

if redis.call("EXISTS", keys.pool) == 0 then
    return "no_pool"
end
event(keys, at_ms, "pool-set", { "reason", change(keys.pool, fields), "by", by })
for i = 1, #fields, 2 do
    if fields[i] == "command" or fields[i] == "base_job_template" then
        -- Never one that was there before, also not after lost writes or in a pool made anew.
        local version = tonumber(redis.call("HGET", keys.pool, "job_version") or 0)
        redis.call("HSET", keys.pool, "job_version", string.format("%.0f", math.max(at_ms, version + 1)))
    end
end
for _, queue in ipairs(redis.call("ZRANGE", keys.ready, 0, -1)) do
    nudge(keys.wake .. queue)
end
redis.call("PUBLISH", keys.changes, " 0")
return "set"
