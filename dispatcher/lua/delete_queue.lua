-- Delete a queue that is paused with intake, by itself or with its pool, and has no runs left. Its
-- workers hear of it. What was dead-lettered from it stays with the pool.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   scheduled     prefix of scheduled:<q>
-- KEYS[5]   waiting       prefix of waiting:<d>:<q>
-- KEYS[6]   waits
-- KEYS[7]   freed         prefix of freed:<q>
-- KEYS[8]   newest        prefix of newest:<q>
-- KEYS[9]   stream        prefix of stream:<q>
-- KEYS[10]  ready
-- KEYS[11]  wake          prefix of wake:<q>
-- KEYS[12]  queue_slots   prefix of slots:queue:<q>
-- KEYS[13]  holders
-- KEYS[14]  inbox         prefix of inbox:<h>
-- KEYS[15]  events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  name          of the queue, encoded
-- ARGV[3]  limit         most waiting sets looked at in this call
-- ARGV[4]  after         what an answer `more` said; empty: from the first
-- ARGV[5]  by            who deletes
-- Returns  {word, detail}: deleted | more after | not_paused | not_empty runs | no_pool | no_queue
-- Uses     fetch, is_paused, is_shut, now, event, forget_queue, unclaimed_entries, runs_left, nudge
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waiting = KEYS[5], waits = KEYS[6], freed = KEYS[7], newest = KEYS[8], stream = KEYS[9],
    ready = KEYS[10], wake = KEYS[11], queue_slots = KEYS[12], holders = KEYS[13], inbox = KEYS[14],
    events = KEYS[15] }
local at_ms, name, limit, after, by = now(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

if redis.call("EXISTS", keys.pool) == 0 then
    return { "no_pool", "" }
elseif not redis.call("ZSCORE", keys.queues, name) then
    return { "no_queue", "" }
elseif not is_shut({ keys.pool, keys.queue .. name }, at_ms) then
    return { "not_paused", "" }
end
local left = runs_left(keys, name)
if left > 0 then
    return { "not_empty", left }
end
-- Only `dispatch` lets runs wait, and not while this pause lasts: what was looked at stays so. One
-- that began later has another time, and the look begins anew.
local since = (redis.call("HGET", keys.pool, "paused_ms") or "") .. "/" .. (redis.call("HGET", keys.queue .. name, "paused_ms") or "")
local seen_since, seen = string.match(after, "^(%S+) (.+)$")
local first = seen_since == since and "(" .. seen or "-"
local waits = redis.call("ZRANGE", keys.waits, first, "+", "BYLEX", "LIMIT", 0, limit)
for _, pair in ipairs(waits) do
    local deployment, queue = string.match(pair, "^(.-) (.+)$")
    if queue == name then
        return { "not_empty", redis.call("ZCARD", keys.waiting .. deployment .. ":" .. queue) }
    end
end
if #waits == limit then
    return { "more", since .. " " .. waits[limit] }
end
forget_queue(keys, name)
redis.call("HINCRBY", keys.pool, "queues_version", 1)
for _, holder in ipairs(redis.call("ZRANGE", keys.holders, 0, 999)) do
    nudge(keys.inbox .. holder)
end
event(keys, at_ms, "queue-deleted", { "queue", name, "by", by })
return { "deleted", "" }
