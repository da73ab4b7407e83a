-- Give a holder the next runs of the queues it serves, highest priority first.
--
-- KEYS[1]  pool
-- KEYS[2]  holders
-- KEYS[3]  holder        prefix of holder:<h>
-- KEYS[4]  claims        prefix of claims:<h>
-- KEYS[5]  ready
-- KEYS[6]  wake          prefix of wake:<q>
-- KEYS[7]  queue         prefix of queue:<q>
-- KEYS[8]  scheduled     prefix of scheduled:<q>
-- KEYS[9]  stream        prefix of stream:<q>
-- KEYS[10] run           prefix of run:<id>
-- KEYS[11] dead
-- KEYS[12] events
-- KEYS[13] changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  number        of this claim; the last one again gets the same runs again
-- ARGV[4]  slots         most runs to take
-- ARGV[5]  max_bytes     most payload to take, beyond the first run
-- Returns  {word, more, {run, queue, token, payload, due_ms, run_count, delivery, name}, …}: claimed | lost | draining | stale; more is 1 while a served queue has something left
-- Uses     now, event, fetch, nudge, ready_queues, wake_again, drop_entry, close_delivery, schedule_again, lose, unclaimed_entries
local keys = { pool = KEYS[1], holders = KEYS[2], holder = KEYS[3], claims = KEYS[4],
    ready = KEYS[5], wake = KEYS[6], queue = KEYS[7], scheduled = KEYS[8], stream = KEYS[9],
    run = KEYS[10], dead = KEYS[11], events = KEYS[12], changes = KEYS[13] }
local at_ms, holder, number = now(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local slots, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])

local holder_key = keys.holder .. holder
local me = fetch(holder_key, "worker", "dead", "draining", "queues", "claim_number", "claim_runs")
local lease_ms = redis.call("ZSCORE", keys.holders, holder)
-- PERSIST is let through at full memory and opens the way for the rest: what waits can be run.
redis.call("PERSIST", holder_key)
local function refuse(word)
    -- The caller may have taken a wake for this: somebody else must hear of it.
    wake_again(keys, me.queues or "")
    return { word, 0 }
end
if not me.worker or me.dead or not lease_ms or tonumber(lease_ms) <= at_ms then
    return refuse("lost")
elseif me.draining then
    return refuse("draining")
elseif number < tonumber(me.claim_number) then
    return refuse("stale")
end

local function answered(ids)
    wake_again(keys, me.queues)
    local answer = { "claimed", #ready_queues(keys, me.queues) > 0 and 1 or 0 }
    for _, id in ipairs(ids) do
        local run = fetch(keys.run .. id, "queue", "token", "payload", "due_ms", "run_count", "delivery", "name")
        answer[#answer + 1] = { id, run.queue, run.token, run.payload, run.due_ms, run.run_count, run.delivery, run.name }
    end
    return answer
end
if number == tonumber(me.claim_number) then
    local held = {}
    for id in string.gmatch(me.claim_runs or "", "%S+") do
        local run = fetch(keys.run .. id, "holder", "claim")
        if run.holder == holder and tonumber(run.claim) == number then
            held[#held + 1] = id
        end
    end
    return answered(held)
end

local function take(queue, entry, id, run)
    local field = "delivery." .. run.delivery + 1
    local incarnation = string.match(holder, "[^.]*$")
    redis.call("HSET", keys.run .. id, "place", "claimed", "state_type", "PENDING",
        "state_name", "Pending", "holder", holder, "claim", number, "claimed_ms", at_ms,
        "token", entry .. "." .. incarnation .. "." .. number, "delivery", run.delivery + 1,
        field .. ".holder", holder, field .. ".claimed_ms", at_ms)
    local old = "delivery." .. run.delivery - 19
    redis.call("HDEL", keys.run .. id, old .. ".holder", old .. ".claimed_ms", old .. ".started_ms",
        old .. ".ended_ms", old .. ".outcome")
    redis.call("SADD", keys.claims .. holder, id)
    event(keys, at_ms, "claimed", { "run", id, "queue", queue, "from", "SCHEDULED", "to", "PENDING", "worker", holder })
end

-- Take what an entry stands for if its run is free. After a group was made again from 0 entries
-- come twice: one with a live holder goes back to it, one whose holder is gone counts as lost.
local function consider(queue, entry, id)
    local run = fetch(keys.run .. id, "place", "entry", "holder", "delivery")
    if run.place == "stream" and run.entry == entry then
        take(queue, entry, id, run)
        return true
    elseif run.place == "claimed" and run.entry == entry then
        if redis.call("EXISTS", keys.holder .. run.holder) == 1 then
            redis.call("XCLAIM", keys.stream .. queue, "workers", run.holder, 0, entry, "JUSTID")
        else
            lose(keys, id, run.holder, at_ms)
        end
    else
        drop_entry(keys, queue, entry)
    end
    return false
end

local function read(queue, count)
    local command = { "XREADGROUP", "GROUP", "workers", holder, "COUNT", count, "STREAMS", keys.stream .. queue, ">" }
    local answer = redis.pcall(unpack(command))
    if type(answer) == "table" and answer.err then
        -- No group yet, or it was destroyed: from 0, or what is already there would be skipped.
        redis.call("XGROUP", "CREATE", keys.stream .. queue, "workers", "0", "MKSTREAM")
        answer = redis.call(unpack(command))
    end
    return answer and answer[1] and answer[1][2] or {}
end

local taken, bytes = {}, 0

-- How many entries to read at once, whatever they hold, without going over the budget: 0 when it
-- is used up, but the first run comes whatever its size.
local function batch(settings)
    local wanted, budget = slots - #taken, max_bytes - bytes
    if wanted <= 0 or tonumber(settings.unclaimed_bytes or 0) <= budget then
        return wanted
    end
    local fit = math.floor(budget / math.max(1, tonumber(settings.largest_bytes or max_bytes)))
    return math.min(wanted, #taken == 0 and math.max(1, fit) or fit)
end

-- The queue holds fewer unclaimed entries now; once it is half empty, what was blocked may follow.
local function made_room(queue, settings, read_bytes, entries_left)
    local bytes_left = math.max(0, tonumber(settings.unclaimed_bytes or 0) - read_bytes)
    redis.call("HSET", keys.queue .. queue, "unclaimed_bytes", bytes_left)
    if settings.blocked == "unclaimed" and entries_left <= tonumber(settings.max_unclaimed or 1000) / 2 then
        redis.call("HDEL", keys.queue .. queue, "blocked")
        redis.call("PUBLISH", keys.changes, queue .. " 0")
    end
    if entries_left == 0 then
        redis.call("ZREM", keys.ready, queue)
    end
end

local full = false
for _, queue in ipairs(ready_queues(keys, me.queues)) do
    local settings = fetch(keys.queue .. queue, "blocked", "max_unclaimed", "unclaimed_bytes", "largest_bytes")
    local bytes_before, seen, empty = bytes, 0, false
    while not full and not empty do
        local count = batch(settings)
        full = count <= 0
        local entries = full and {} or read(queue, count)
        empty = #entries < count
        seen = seen + #entries
        for _, entry in ipairs(entries) do
            local fields = entry[2] or {}
            if consider(queue, entry[1], fields[2]) then
                taken[#taken + 1] = fields[2]
                bytes = bytes + #fields[4]
            end
        end
    end
    if seen > 0 or empty then
        made_room(queue, settings, bytes - bytes_before, empty and 0 or unclaimed_entries(keys.stream .. queue))
    end
end
redis.call("HSET", holder_key, "claim_number", number, "claim_runs", table.concat(taken, " "))
return answered(taken)
