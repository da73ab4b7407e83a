-- Change settings of a pool; they hold from now on. Whoever was kept out by one looks again.
--
-- KEYS[1]   pool
-- KEYS[2]   waits
-- KEYS[3]   freed         prefix of freed:<q>
-- KEYS[4]   ready
-- KEYS[5]   wake          prefix of wake:<q>
-- KEYS[6]   holders
-- KEYS[7]   inbox         prefix of inbox:<h>
-- KEYS[8]   events
-- KEYS[9]   changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  fields        flat list of settings as JSON: names and values, all strings; an empty value takes one away
-- ARGV[3]  by            who does it
-- Returns  set | no_pool
-- Uses     now, event, change, nudge
local keys = { pool = KEYS[1], waits = KEYS[2], freed = KEYS[3], ready = KEYS[4], wake = KEYS[5],
    holders = KEYS[6], inbox = KEYS[7], events = KEYS[8], changes = KEYS[9] }
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
    elseif fields[i] == "handout" then
        -- Workers read what there is to claim anew.
        redis.call("HINCRBY", keys.pool, "queues_version", 1)
        for _, holder in ipairs(redis.call("ZRANGE", keys.holders, 0, 999)) do
            nudge(keys.inbox .. holder)
        end
        -- What was left to runs that would be taken next may be another one's in a stream.
        for _, pair in ipairs(redis.call("ZRANGE", keys.waits, 0, 999)) do
            local deployment, waiting = string.match(pair, "^(.-) (.+)$")
            redis.call("SADD", keys.freed .. waiting, deployment)
        end
    end
end
for _, queue in ipairs(redis.call("ZRANGE", keys.ready, 0, -1)) do
    nudge(keys.wake .. queue)
end
redis.call("PUBLISH", keys.changes, " 0")
return "set"
