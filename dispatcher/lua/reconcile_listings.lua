-- Compare members of one structure with what they stand for, and with `fix` repair what differs:
-- runs that are listed where their record does not say they are, and what says who waits, who has
-- a lease, who has which entry.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   deployment    prefix of deployment:<d>
-- KEYS[5]   scheduled     prefix of scheduled:<q>
-- KEYS[6]   waiting       prefix of waiting:<d>:<q>
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
-- KEYS[18]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[19]  holders
-- KEYS[20]  holder        prefix of holder:<h>
-- KEYS[21]  claims        prefix of claims:<h>
-- KEYS[22]  orders        prefix of orders:<h>
-- KEYS[23]  workers
-- KEYS[24]  dead
-- KEYS[25]  finished
-- KEYS[26]  events
-- KEYS[27]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  fix           1: repair, each with an event
-- ARGV[4]  max_bytes     most payload looked at in this call, beyond the first member
-- ARGV[5]  structure     scheduled, waiting, … as in the table of keys; `pending`: entries of a stream's group; `waiting_sets`: `<d> <q>` of a waiting set that was seen
-- ARGV[6]  part          of its key that varies; empty where none does
-- ARGV[7...]  members    of it
-- Returns  {word, done, {{what, queue, run, problem, repair, repaired}, …}}: reconciled | no_pool | newer version; done is how many of the members were looked at; an empty repair is up to people
-- Uses     fetch, now, event, found, is_paused, unclaimed_entries, room, nudge, offer, place_key, made_room, stop_waiting, tell_waiting, drop_entry, free_deployment, unschedule, is_registered, told, close_delivery, free_slots, close_claim, end_run, note_newest, note_behind, schedule_again, lose, pending_for, untouchable
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], deployment = KEYS[4],
    scheduled = KEYS[5], waiting = KEYS[6], waits = KEYS[7], freed = KEYS[8], newest = KEYS[9],
    unstarted = KEYS[10], stream = KEYS[11], ready = KEYS[12], wake = KEYS[13], run = KEYS[14],
    idempotency = KEYS[15], pool_slots = KEYS[16], queue_slots = KEYS[17],
    deployment_slots = KEYS[18], holders = KEYS[19], holder = KEYS[20], claims = KEYS[21],
    orders = KEYS[22], workers = KEYS[23], dead = KEYS[24], finished = KEYS[25], events = KEYS[26],
    changes = KEYS[27] }
local at_ms, known_version, fix = now(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == "1"
local bytes_left, structure, part = tonumber(ARGV[4]), ARGV[5], ARGV[6]

local refusal = untouchable(keys, known_version)
if refusal then
    return refusal
end
if fix then
    -- PERSIST is let through at full memory and opens the way for the rest.
    redis.call("PERSIST", keys.pool)
end
local findings = {}
local function wrong(what, queue, id, problem, repair)
    return found(keys, findings, fix, at_ms, what, queue, id, problem, repair)
end

local function is_claimed(run)
    return run.place == "claimed"
end

-- Where runs are listed: the key, what it says of a run, whether a record stands for it, what it is
-- called when another place stands in the record, and how the run leaves where that wakes others.
local listings = {
    scheduled = { key = keys.scheduled .. part, says = "is in the schedule of " .. part,
        stands = function(run, member)
            return run.place == "scheduled" and run.queue == part and run.member == member
        end },
    waiting = { key = keys.waiting .. part, says = "waits in " .. part,
        stands = function(run, member)
            return run.place == "waiting" and (run.deployment or "") .. ":" .. run.queue == part and run.member == member
        end },
    unstarted = { key = keys.unstarted, says = "is to start by a time", what = "stray-mark",
        stands = function(run)
            return run.place == "scheduled" or run.place == "stream" or run.state_type == "PENDING"
        end },
    pool_slots = { key = keys.pool_slots, says = "holds a slot of the pool", what = "stray-slot", stands = is_claimed,
        leave = function(id)
            -- Of no queue and no deployment: those slots are listings of their own.
            free_slots(keys, id, { queue = "", deployment = "" }, at_ms)
        end },
    queue_slots = { key = keys.queue_slots .. part, says = "holds a slot of queue " .. part, what = "stray-slot",
        stands = function(run)
            return is_claimed(run) and run.queue == part
        end,
        leave = function(id)
            redis.call("ZREM", keys.queue_slots .. part, id)
            offer(keys, part, at_ms)
        end },
    deployment_slots = { key = keys.deployment_slots .. part, says = "holds a slot of deployment " .. part, what = "stray-slot",
        stands = function(run)
            return run.deployment == part and (run.place == "stream" or is_claimed(run))
        end,
        leave = function(id)
            free_deployment(keys, id, part, at_ms)
        end },
    claims = { key = keys.claims .. part, says = "is among the claims of " .. part,
        stands = function(run)
            return is_claimed(run) and run.holder == part
        end },
    orders = { key = keys.orders .. part, says = part .. " is told to cancel it, and it", what = "stray-mark",
        stands = function(run)
            return is_claimed(run) and run.holder == part and run.state_type == "CANCELLING"
        end },
    dead = { key = keys.dead, says = "is among the dead letters",
        stands = function(run)
            return run.place == "dead"
        end },
    -- It lets go of records that are gone by and by, as more runs end.
    finished = { key = keys.finished, says = "is among the runs that have ended",
        stands = function(run)
            return not run.place or run.place == "ended"
        end },
}

local function look_at_run(member)
    local listing = listings[structure]
    local is_set = structure == "claims" or structure == "orders"
    local there = is_set and redis.call("SISMEMBER", listing.key, member) == 1 or not is_set and redis.call("ZSCORE", listing.key, member)
    local id = (structure == "scheduled" or structure == "waiting") and string.sub(member, 17) or member
    local run = fetch(keys.run .. id, "place", "queue", "member", "deployment", "holder", "state_type")
    if not there or listing.stands(run, member) then
        return
    end
    local what = listing.what or (run.place and "two-places" or "no-record")
    if not wrong(what, run.queue or "", id, listing.says .. " and " .. told(run), "taken out") then
        return
    elseif listing.leave then
        listing.leave(id)
    elseif structure == "waiting" then
        local deployment, queue = string.match(part, "^(.*):([^:]*)$")
        if stop_waiting(keys, { member = member, deployment = deployment, queue = queue }) then
            tell_waiting(keys, deployment, at_ms) -- other queues may have left the slot to this one
        end
    else
        redis.call(is_set and "SREM" or "ZREM", listing.key, member)
    end
end

-- `<d> <q>`: a set in which runs wait must be listed, or nobody lets them in.
local function look_at_waiting_set(pair)
    local deployment, queue = string.match(pair, "^(.-) (.+)$")
    if redis.call("EXISTS", keys.waiting .. deployment .. ":" .. queue) == 1 and not redis.call("ZSCORE", keys.waits, pair)
        and wrong("not-listed", queue, "", "runs wait for deployment " .. deployment .. ", and are not listed", "put there") then
        redis.call("ZADD", keys.waits, 0, pair)
        tell_waiting(keys, deployment, at_ms)
    end
end

-- Say whether somebody will look at the free slots of a deployment: a queue that has a mark, or one
-- with runs of it that are due: they may have been let in, and take their slots next. Where more is
-- due than can be looked at here, they are taken to be among it.
local function is_looked_after(deployment)
    local looks = 100
    for _, queue in ipairs(redis.call("ZRANGE", keys.queues, 0, -1)) do
        if redis.call("SISMEMBER", keys.freed .. queue, deployment) == 1 then
            return true
        end
        local due = redis.call("ZRANGE", keys.scheduled .. queue, "-inf", at_ms, "BYSCORE", "LIMIT", 0, looks + 1)
        looks = looks - #due
        if looks < 0 then
            return true
        end
        for _, member in ipairs(due) do
            if redis.call("HGET", keys.run .. string.sub(member, 17), "deployment") == deployment then
                return true
            end
        end
    end
    return false
end

-- A set that is listed must not be empty, and a free slot must be known to those who let runs in;
-- once for each deployment.
local function look_at_waits(pair)
    local deployment, queue = string.match(pair, "^(.-) (.+)$")
    if not redis.call("ZSCORE", keys.waits, pair) then
        return
    elseif redis.call("EXISTS", keys.waiting .. deployment .. ":" .. queue) == 0 then
        if wrong("stray-mark", queue, "", "nothing waits for deployment " .. deployment .. ", and it is listed", "taken out") then
            redis.call("ZREM", keys.waits, pair)
        end
        return
    end
    local first = redis.call("ZRANGE", keys.waits, "[" .. deployment .. " ", "+", "BYLEX", "LIMIT", 0, 1)[1]
    local free = room(redis.call("HGET", keys.deployment .. deployment, "limit"), keys.deployment_slots .. deployment)
    if pair == first and free > 0 and not is_looked_after(deployment)
        and wrong("unmarked", queue, "", "runs wait for deployment " .. deployment .. ", which has a free slot", "let in") then
        tell_waiting(keys, deployment, at_ms)
    end
end

local function look_at_lease(holder)
    if redis.call("ZSCORE", keys.holders, holder) and not is_registered(keys, holder)
        and wrong("stray-holder", "", "", holder .. " has a lease and is not registered", "forgotten") then
        redis.call("ZREM", keys.holders, holder)
    end
end

-- A lease that is given back can be renewed by a holder that lives, and ends if it does not.
local function look_at_holder(holder)
    local him = fetch(keys.holder .. holder, "worker", "dead")
    if not him.worker then
        return
    elseif not redis.call("ZSCORE", keys.holders, holder)
        and wrong("no-lease", "", "", holder .. " is registered and has no lease", "given one") then
        redis.call("ZADD", keys.holders, at_ms + redis.call("HGET", keys.pool, "lease_ms"), holder)
    end
    if not him.dead and redis.call("HEXISTS", keys.workers, him.worker) == 0
        and wrong("not-listed", "", "", holder .. " is registered, and its name has no holder", "put there") then
        redis.call("HSET", keys.workers, him.worker, holder)
    end
end

local function look_at_worker(worker)
    local holder = redis.call("HGET", keys.workers, worker)
    if holder and not is_registered(keys, holder)
        and wrong("stray-holder", "", "", worker .. " is held by " .. holder .. ", who is not registered", "forgotten") then
        redis.call("HDEL", keys.workers, worker)
    end
end

-- Delete a consumer of nobody for whom nothing is pending: with it goes what is.
local function leave(stream, consumer)
    if not is_registered(keys, consumer) and #redis.call("XPENDING", stream, "workers", "-", "+", 1, consumer) == 0 then
        redis.call("XGROUP", "DELCONSUMER", stream, "workers", consumer)
    end
end

local function look_at_claimed(stream, entry, id, run, consumer)
    if run.holder ~= consumer then
        -- Of a holder that is gone the record of the run tells.
        if is_registered(keys, run.holder or "") and wrong("wrong-consumer", part, id, told(run) .. " and its entry is pending for " .. consumer, "given to it") then
            redis.call("XCLAIM", stream, "workers", run.holder, 0, entry, "JUSTID")
            leave(stream, consumer)
        end
    elseif not is_registered(keys, consumer) and wrong("dead-consumer", part, id, told(run) .. ", who is not registered", "taken back") then
        lose(keys, id, consumer, at_ms)
        leave(stream, consumer)
    end
end

local function look_at_pending(entry)
    local stream = keys.stream .. part
    local consumer = pending_for(stream, entry)
    if not consumer then
        return
    end
    local there = redis.call("XRANGE", stream, entry, entry)[1]
    if not there then
        if wrong("stray-mark", part, "", "entry " .. entry .. " is gone and pending for " .. consumer, "taken out") then
            redis.call("XACK", stream, "workers", entry)
            leave(stream, consumer)
            offer(keys, part, at_ms)
        end
        return
    end
    local id = there[2][2] or ""
    bytes_left = bytes_left - #(there[2][4] or "")
    local run = fetch(keys.run .. id, "place", "entry", "holder", "queue", "member", "due_ms", "state_name", "deployment", "token")
    -- An entry that its record does not name is a finding of the stream.
    if run.entry == entry and run.place == "claimed" and run.token then
        look_at_claimed(stream, entry, id, run, consumer)
    elseif run.entry == entry and run.place == "stream"
        and wrong("dead-consumer", part, id, "is pending for " .. consumer .. ", who has not claimed it", "scheduled again") then
        unschedule(keys, id, run, at_ms)
        schedule_again(keys, id, run)
        leave(stream, consumer)
    end
end

local looks = { waiting_sets = look_at_waiting_set, waits = look_at_waits, holders = look_at_lease, holder = look_at_holder,
    workers = look_at_worker, pending = look_at_pending }
local look, done = looks[structure] or look_at_run, 0
for i = 7, #ARGV do
    if bytes_left <= 0 then
        break
    end
    look(ARGV[i])
    done = done + 1
end
return { "reconciled", done, findings }
