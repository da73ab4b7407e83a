-- Take entries that nobody has claimed out of the stream of a paused queue, or of one whose pool is
-- handed out by polling, back to their places.
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
-- KEYS[11]  run           prefix of run:<id>
-- KEYS[12]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[13]  events
-- KEYS[14]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  name          of the queue, encoded
-- ARGV[3]  limit         most entries looked at
-- ARGV[4]  max_bytes     most payload looked at, beyond the first entry
-- ARGV[5]  after         entry to go on behind; empty: behind the last one that was claimed
-- Returns  {word, after}: more | withdrawn | not_paused
-- Uses     fetch, now, event, is_paused, place_key, unclaimed_entries, made_room, stop_waiting, tell_waiting, drop_entry, free_deployment, unschedule, note_newest, note_behind, schedule_again
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waiting = KEYS[5], waits = KEYS[6], freed = KEYS[7], newest = KEYS[8], stream = KEYS[9],
    ready = KEYS[10], run = KEYS[11], deployment_slots = KEYS[12], events = KEYS[13],
    changes = KEYS[14] }
local at_ms, queue, limit = now(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local max_bytes, after = tonumber(ARGV[4]), ARGV[5]

local paused = redis.call("HGET", keys.pool, "handout") == "poll"
for _, key in ipairs({ keys.pool, keys.queue .. queue }) do
    local settings = fetch(key, "paused", "paused_until_ms")
    paused = paused or is_paused(settings.paused, settings.paused_until_ms, at_ms)
end
if not paused then
    return { "not_paused", "" }
end
local stream = keys.stream .. queue
if after == "" then
    after = "0-0"
    for _, group in ipairs(redis.call("EXISTS", stream) == 1 and redis.call("XINFO", "GROUPS", stream) or {}) do
        local info = {}
        for i = 1, #group, 2 do
            info[group[i]] = group[i + 1]
        end
        if info.name == "workers" then
            after = info["last-delivered-id"]
        end
    end
end
local largest = tonumber(redis.call("HGET", keys.queue .. queue, "largest_bytes") or 0)
limit = math.max(1, math.min(limit, math.floor(max_bytes / math.max(1, largest))))
local entries = redis.call("XRANGE", stream, "(" .. after, "+", "COUNT", limit)
for _, entry in ipairs(entries) do
    local id = entry[2][2]
    local run = fetch(keys.run .. id, "place", "entry", "queue", "member", "due_ms", "state_name", "deployment")
    after = entry[1]
    if run.place == "stream" and run.entry == after then
        unschedule(keys, id, run, at_ms)
        schedule_again(keys, id, run)
        event(keys, at_ms, "withdrawn", { "run", id, "queue", queue })
    elseif run.entry ~= after then
        drop_entry(keys, queue, after)
    end
end
return { #entries < limit and "withdrawn" or "more", after }
