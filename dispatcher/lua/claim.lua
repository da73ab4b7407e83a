-- Give a holder the next runs of the queues it serves, highest priority first, within the limits
-- of the pool and of each queue.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   scheduled     prefix of scheduled:<q>
-- KEYS[5]   waits
-- KEYS[6]   freed         prefix of freed:<q>
-- KEYS[7]   newest        prefix of newest:<q>
-- KEYS[8]   unstarted
-- KEYS[9]   stream        prefix of stream:<q>
-- KEYS[10]  ready
-- KEYS[11]  wake          prefix of wake:<q>
-- KEYS[12]  run           prefix of run:<id>
-- KEYS[13]  idempotency   prefix of idempotency:<sha256>
-- KEYS[14]  pool_slots
-- KEYS[15]  queue_slots   prefix of slots:queue:<q>
-- KEYS[16]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[17]  holders
-- KEYS[18]  holder        prefix of holder:<h>
-- KEYS[19]  claims        prefix of claims:<h>
-- KEYS[20]  orders        prefix of orders:<h>
-- KEYS[21]  dead
-- KEYS[22]  finished
-- KEYS[23]  events
-- KEYS[24]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  number        of this claim; the last one again gets the same runs again
-- ARGV[4]  slots         most runs to take
-- ARGV[5]  max_bytes     most payload to take, beyond the first run
-- Returns  {word, more, {run, queue, token, payload, due_ms, run_count, delivery, name, timeout_ms, cancel_grace_ms, retry_delay_ms, job_version}, …}: claimed | lost | draining | stale | polled; polled: the pool hands out nothing to claims; more is 1 while a served queue has something left
-- Uses     fetch, place_key, too_late, now, is_paused, room, ready_queues, unclaimed_entries, made_room, event, close_delivery, nudge, offer, tell_waiting, free_deployment, free_slots, drop_entry, close_claim, end_run, note_newest, note_behind, schedule_again, lose, skip, hold, wake_again
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waits = KEYS[5], freed = KEYS[6], newest = KEYS[7], unstarted = KEYS[8], stream = KEYS[9],
    ready = KEYS[10], wake = KEYS[11], run = KEYS[12], idempotency = KEYS[13],
    pool_slots = KEYS[14], queue_slots = KEYS[15], deployment_slots = KEYS[16], holders = KEYS[17],
    holder = KEYS[18], claims = KEYS[19], orders = KEYS[20], dead = KEYS[21], finished = KEYS[22],
    events = KEYS[23], changes = KEYS[24] }
local at_ms, holder, number = now(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local slots, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])

local holder_key = keys.holder .. holder
local me = fetch(holder_key, "worker", "dead", "draining", "queues", "claim_number", "claim_runs")
local lease_ms = redis.call("ZSCORE", keys.holders, holder)
-- PERSIST is let through at full memory and opens the way for the rest: what waits can be run.
redis.call("PERSIST", holder_key)
local function turned_away(word)
    -- The caller may have taken a wake for this: somebody else must hear of it.
    wake_again(keys, me.queues or "", at_ms)
    return { word, 0 }
end
if not me.worker or me.dead or not lease_ms or tonumber(lease_ms) <= at_ms then
    return turned_away("lost")
elseif me.draining then
    return turned_away("draining")
elseif number < tonumber(me.claim_number) then
    return turned_away("stale")
end

local pool = fetch(keys.pool, "limit", "late_after_ms", "job_version", "handout")
local rows, settings_of = {}, {}
local function hand_out(id, run)
    local settings = settings_of[run.queue] or fetch(keys.queue .. run.queue, "timeout_ms", "cancel_grace_ms")
    settings_of[run.queue] = settings
    rows[#rows + 1] = { id, run.queue, run.token, run.payload, run.due_ms, run.run_count,
        run.delivery, run.name, settings.timeout_ms or "", settings.cancel_grace_ms or "",
        run.retry_delay_ms or "", pool.job_version or 0 }
end
local function answered()
    local answer = { "claimed", wake_again(keys, me.queues, at_ms) > 0 and 1 or 0 }
    for i, row in ipairs(rows) do
        answer[i + 2] = row
    end
    return answer
end
if number == tonumber(me.claim_number) then
    for id in string.gmatch(me.claim_runs or "", "%S+") do
        local run = fetch(keys.run .. id, "holder", "claim", "queue", "token", "payload", "due_ms",
            "run_count", "delivery", "name", "retry_delay_ms")
        if run.holder == holder and tonumber(run.claim) == number then
            hand_out(id, run)
        end
    end
    return answered()
elseif pool.handout == "poll" then
    return turned_away("polled")
end

local late_after_ms = tonumber(pool.late_after_ms or 15000)
local function take(entry, id, run, payload)
    local incarnation = string.match(holder, "[^.]*$")
    local token = entry .. "." .. incarnation .. "." .. number
    hold(keys, id, run, holder, number, token, at_ms)
    -- As a repeated claim finds it, without the price of reading it again.
    run.token, run.payload, run.delivery = token, payload, string.format("%d", run.delivery + 1)
    hand_out(id, run)
end

-- Take what an entry stands for if its run is free. After a group was made again from 0 entries
-- come twice: one with a live holder goes back to it, one whose holder is gone counts as lost.
-- Answers whether it was taken, and how many bytes are unclaimed no more.
local function consider(queue, settings, entry, id, payload)
    local size = #payload
    local run = fetch(keys.run .. id, "place", "entry", "holder", "delivery", "queue", "member",
        "due_ms", "claimed_ms", "waited", "deployment", "idempotency", "run_count", "name", "retry_delay_ms")
    local free = run.place == "stream" and run.entry == entry
    local reason = free and too_late(keys, queue, settings, run, at_ms, late_after_ms)
    if reason then
        drop_entry(keys, queue, entry)
        redis.call("HDEL", keys.run .. id, "entry")
        free_deployment(keys, id, run.deployment, at_ms)
        skip(keys, id, run, at_ms, reason)
        return false, size
    elseif free then
        take(entry, id, run, payload)
        return true, size
    elseif run.place == "claimed" and run.entry == entry then
        if redis.call("EXISTS", keys.holder .. run.holder) == 1 then
            redis.call("XCLAIM", keys.stream .. queue, "workers", run.holder, 0, entry, "JUSTID")
        else
            lose(keys, id, run.holder, at_ms)
        end
    else
        drop_entry(keys, queue, entry)
    end
    return false, 0
end

local function read(queue, count)
    local command = { "XREADGROUP", "GROUP", "workers", holder, "COUNT", count, "STREAMS", keys.stream .. queue, ">" }
    local answer = redis.pcall(unpack(command))
    if type(answer) == "table" and answer.err then
        -- No group yet, or it was destroyed: from 0, or what is already there would be skipped.
        redis.call("XGROUP", "CREATE", keys.stream .. queue, "workers", "0", "MKSTREAM")
        redis.call("HSET", keys.queue .. queue, "grouped_ms", at_ms)
        answer = redis.call(unpack(command))
    end
    return answer and answer[1] and answer[1][2] or {}
end

local taken, bytes = {}, 0
-- Entries that give no run (skipped, or held since a group was made again) are bounded as well.
local looks_left = slots + 200
local pool_room = room(pool.limit, keys.pool_slots)

-- How many entries to read at once, whatever they hold, without going over the budget: 0 when it
-- is used up, but the first run comes whatever its size.
local function batch(settings, free)
    local wanted, budget = math.min(slots, pool_room) - #taken, max_bytes - bytes
    wanted = math.min(wanted, free, looks_left)
    if wanted <= 0 or tonumber(settings.unclaimed_bytes or 0) <= budget then
        return wanted
    end
    local fit = math.floor(budget / math.max(1, tonumber(settings.largest_bytes or max_bytes)))
    return math.min(wanted, bytes == 0 and math.max(1, fit) or fit)
end

local full = false
for _, queue in ipairs(ready_queues(keys, me.queues, at_ms)) do
    local settings = fetch(keys.queue .. queue, "unclaimed_bytes", "largest_bytes", "limit",
        "paused", "paused_until_ms", "late_policy", "late_drop_ms", "unserved_ms")
    local free = room(settings.limit, keys.queue_slots .. queue)
    if is_paused(settings.paused, settings.paused_until_ms, at_ms) then
        free = 0
    end
    local seen, gone, empty = 0, 0, false
    while not full and not empty and free > 0 do
        local count = batch(settings, free)
        full = count <= 0
        local entries = full and {} or read(queue, count)
        empty = #entries < count
        seen, looks_left = seen + #entries, looks_left - #entries
        for _, entry in ipairs(entries) do
            local fields = entry[2] or {}
            local payload = fields[4] or ""
            local is_taken, size = consider(queue, settings, entry[1], fields[2], payload)
            gone, bytes = gone + size, bytes + #payload
            if is_taken then
                taken[#taken + 1] = fields[2]
                free = free - 1
            end
        end
    end
    if seen > 0 or empty then
        made_room(keys, queue, gone)
    end
    if settings.unserved_ms then
        redis.call("HDEL", keys.queue .. queue, "unserved_ms")
    end
    if free <= 0 then
        redis.call("ZREM", keys.ready, queue)
    end
end
redis.call("HSET", holder_key, "claim_number", number, "claim_runs", table.concat(taken, " "))
return answered()
