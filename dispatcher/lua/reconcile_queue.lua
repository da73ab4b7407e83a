-- Compare a queue's stream with who is to look at it: its group, `ready`, the group's consumers.
-- Then its entries with the records that name them, some at a time. With `fix` repair what differs.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   stream        prefix of stream:<q>
-- KEYS[5]   ready
-- KEYS[6]   wake          prefix of wake:<q>
-- KEYS[7]   run           prefix of run:<id>
-- KEYS[8]   queue_slots   prefix of slots:queue:<q>
-- KEYS[9]   holder        prefix of holder:<h>
-- KEYS[10]  events
-- KEYS[11]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  fix           1: repair, each with an event
-- ARGV[4]  queue         encoded name
-- ARGV[5]  after         entry to go on behind; empty: from the first
-- ARGV[6]  limit         most entries looked at
-- ARGV[7]  max_bytes     most payload looked at in this call, beyond the first entry
-- Returns  {word, after, {{what, queue, run, problem, repair, repaired}, …}}: reconciled | no_pool | no_queue | newer version; after is empty when all entries were seen; an empty repair is up to people
-- Uses     fetch, now, is_grouped, event, found, is_paused, unclaimed_entries, room, nudge, offer, made_room, is_registered, told, untouchable
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], stream = KEYS[4], ready = KEYS[5],
    wake = KEYS[6], run = KEYS[7], queue_slots = KEYS[8], holder = KEYS[9], events = KEYS[10],
    changes = KEYS[11] }
local at_ms, known_version, fix = now(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == "1"
local queue, after, limit, bytes_left = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])

local refusal = untouchable(keys, known_version)
if refusal then
    return refusal
elseif not redis.call("ZSCORE", keys.queues, queue) then
    return { "no_queue", "" }
end
if fix then
    -- PERSIST is let through at full memory and opens the way for the rest.
    redis.call("PERSIST", keys.pool)
end
local findings, stream = {}, keys.stream .. queue
local function wrong(what, id, problem, repair)
    return found(keys, findings, fix, at_ms, what, queue, id, problem, repair)
end

-- Who looks at the queue. While a pause is there `dispatch` or `resume` will offer it; a wake that
-- got lost is no finding, as the next renewal wakes again.
local function compare_ready()
    local settings = fetch(keys.queue .. queue, "paused", "limit", "grouped_ms", "unclaimed_bytes")
    local left = unclaimed_entries(stream)
    local is_ready = redis.call("ZSCORE", keys.ready, queue)
    if settings.grouped_ms and redis.call("EXISTS", stream) == 1 and not is_grouped(stream) then
        if wrong("no-group", "", "its stream has lost the group `workers`", "made again from 0") then
            redis.call("XGROUP", "CREATE", stream, "workers", "0")
            offer(keys, queue, at_ms)
        end
    elseif left <= 0 and is_ready then
        if wrong("nothing-ready", "", "is offered to workers, and nothing in it can be claimed", "offered no more") then
            offer(keys, queue, at_ms)
        end
    elseif left > 0 and not is_ready and settings.paused ~= "1" and room(settings.limit, keys.queue_slots .. queue) > 0
        and wrong("asleep", "", "has " .. left .. " unclaimed entries, and no worker is woken for them", "offered") then
        offer(keys, queue, at_ms)
    end
    if left <= 0 and tonumber(settings.unclaimed_bytes or 0) > 0
        and wrong("bytes", "", "counts " .. settings.unclaimed_bytes .. " unclaimed bytes without an unclaimed entry", "set to 0") then
        redis.call("HSET", keys.queue .. queue, "unclaimed_bytes", 0)
    end
end

local function look_at_entry(entry)
    local id, payload = entry[2][2] or "", entry[2][4] or ""
    bytes_left = bytes_left - #payload
    local run = fetch(keys.run .. id, "place", "queue", "entry", "holder")
    if run.entry == entry[1] and run.queue == queue and (run.place == "stream" or run.place == "claimed") then
        return
    end
    local known = run.place and run.entry and run.entry ~= entry[1]
    local says = known and "is in another entry by its record" or told(run)
    if wrong(run.place and "two-places" or "no-record", id, "has entry " .. entry[1] .. " and " .. says, "entry deleted") then
        local was_pending = redis.call("XACK", stream, "workers", entry[1]) == 1
        redis.call("XDEL", stream, entry[1])
        -- What a record names no more was counted; what none ever named was not.
        made_room(keys, queue, (was_pending or run.place) and 0 or #payload)
    end
end

-- Consumers of nobody go when nothing is pending for them.
local function compare_consumers()
    for _, consumer in ipairs(is_grouped(stream) and redis.call("XINFO", "CONSUMERS", stream, "workers") or {}) do
        local info = {}
        for i = 1, #consumer, 2 do
            info[consumer[i]] = consumer[i + 1]
        end
        if info.pending == 0 and not is_registered(keys, info.name)
            and wrong("dead-consumer", "", "has the consumer " .. info.name .. ", who is not registered", "deleted") then
            redis.call("XGROUP", "DELCONSUMER", stream, "workers", info.name)
        end
    end
end

if after == "" then
    compare_ready()
end
local seen, left = 0, true
while left and seen < limit and bytes_left > 0 do
    local entry = redis.call("XRANGE", stream, after == "" and "-" or "(" .. after, "+", "COUNT", 1)[1]
    left = entry ~= nil
    if entry then
        after, seen = entry[1], seen + 1
        look_at_entry(entry)
    end
end
if not left then
    after = ""
    compare_consumers()
end
return { "reconciled", after, findings }
