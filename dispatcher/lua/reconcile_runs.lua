-- Compare the records of some runs with what must list them by their place, and with `fix` repair
-- what differs. The record decides; a claim that nobody can end any more is taken back.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   scheduled     prefix of scheduled:<q>
-- KEYS[5]   waiting       prefix of waiting:<d>:<q>
-- KEYS[6]   waits
-- KEYS[7]   freed         prefix of freed:<q>
-- KEYS[8]   newest        prefix of newest:<q>
-- KEYS[9]   unstarted
-- KEYS[10]  stream        prefix of stream:<q>
-- KEYS[11]  ready
-- KEYS[12]  wake          prefix of wake:<q>
-- KEYS[13]  run           prefix of run:<id>
-- KEYS[14]  idempotency   prefix of idempotency:<sha256>
-- KEYS[15]  pool_slots
-- KEYS[16]  queue_slots   prefix of slots:queue:<q>
-- KEYS[17]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[18]  holder        prefix of holder:<h>
-- KEYS[19]  claims        prefix of claims:<h>
-- KEYS[20]  orders        prefix of orders:<h>
-- KEYS[21]  inbox         prefix of inbox:<h>
-- KEYS[22]  dead
-- KEYS[23]  finished
-- KEYS[24]  events
-- KEYS[25]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  fix           1: repair, each with an event
-- ARGV[4]  max_bytes     most payload looked at in this call, beyond the first run
-- ARGV[5...]  ids        the runs
-- Returns  {word, done, {{what, queue, run, problem, repair, repaired}, …}}: reconciled | no_pool | newer version; done is how many of the runs were looked at; an empty repair is up to people
-- Uses     fetch, now, is_grouped, event, found, unclaimed_entries, made_room, is_registered, told, close_delivery, is_paused, room, nudge, offer, tell_waiting, free_deployment, free_slots, drop_entry, close_claim, end_run, place_key, note_newest, note_behind, schedule_again, lose, pending_for, untouchable
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waiting = KEYS[5], waits = KEYS[6], freed = KEYS[7], newest = KEYS[8], unstarted = KEYS[9],
    stream = KEYS[10], ready = KEYS[11], wake = KEYS[12], run = KEYS[13], idempotency = KEYS[14],
    pool_slots = KEYS[15], queue_slots = KEYS[16], deployment_slots = KEYS[17], holder = KEYS[18],
    claims = KEYS[19], orders = KEYS[20], inbox = KEYS[21], dead = KEYS[22], finished = KEYS[23],
    events = KEYS[24], changes = KEYS[25] }
local at_ms, known_version, fix = now(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == "1"
local bytes_left = tonumber(ARGV[4])

local refusal = untouchable(keys, known_version)
if refusal then
    return refusal
end
if fix then
    -- PERSIST is let through at full memory and opens the way for the rest.
    redis.call("PERSIST", keys.pool)
end
local findings = {}
local function wrong(what, id, run, problem, repair)
    return found(keys, findings, fix, at_ms, what, run.queue or "", id, problem, repair)
end

-- An entry comes with its payload: what is read counts against the budget of this call.
local function has_entry(id, run)
    if not string.match(run.entry or "", "^%d+%-%d+$") then
        return false
    end
    bytes_left = bytes_left - redis.call("HSTRLEN", keys.run .. id, "payload")
    local entry = redis.call("XRANGE", keys.stream .. run.queue, run.entry, run.entry)[1]
    return entry and entry[2][2] == id
end

local function is_in(id, run, key, member, score, what)
    local there = redis.call("ZSCORE", key, member)
    if there and (not score or tonumber(there) == tonumber(score)) then
        return true
    end
    return not wrong("not-listed", id, run, told(run) .. (there and " at another time than in " or " and not in ") .. what, "put there")
end

local function has_slot(id, run, key, of, since_ms)
    if not redis.call("ZSCORE", key, id) and wrong("no-slot", id, run, told(run) .. " and holds no slot of " .. of, "given one") then
        redis.call("ZADD", key, since_ms or at_ms, id)
    end
end

local function has_deployment_slot(id, run)
    if run.deployment and run.deployment ~= "" then
        has_slot(id, run, keys.deployment_slots .. run.deployment, "its deployment", run.dispatched_ms)
    end
end

local look_at = {}

look_at["scheduled"] = function(id, run)
    if not is_in(id, run, keys.scheduled .. run.queue, run.member, run.due_ms, "the schedule") then
        redis.call("ZADD", keys.scheduled .. run.queue, run.due_ms, run.member)
        redis.call("PUBLISH", keys.changes, run.queue .. " " .. run.due_ms)
    end
end

look_at["waiting"] = function(id, run)
    local waiting = keys.waiting .. run.deployment .. ":" .. run.queue
    if not is_in(id, run, waiting, run.member, run.due_ms, "its waiting set") then
        redis.call("ZADD", waiting, run.due_ms, run.member)
        redis.call("ZADD", keys.waits, 0, run.deployment .. " " .. run.queue)
        tell_waiting(keys, run.deployment, at_ms)
    end
end

look_at["stream"] = function(id, run)
    if has_entry(id, run) then
        has_deployment_slot(id, run)
    elseif wrong("no-entry", id, run, told(run) .. " and has no entry there", "scheduled again") then
        redis.call("HDEL", keys.run .. id, "entry")
        made_room(keys, run.queue, redis.call("HSTRLEN", keys.run .. id, "payload"))
        free_deployment(keys, id, run.deployment, at_ms)
        schedule_again(keys, id, run)
    end
end

local function take_back(id, run)
    redis.call("HSET", keys.run .. id, "holder", run.holder or "nobody")
    lose(keys, id, run.holder or "nobody", at_ms)
end

-- What the holder of a claim and the group know of it.
local function is_known(id, run, consumer)
    local claims, orders = keys.claims .. run.holder, keys.orders .. run.holder
    if redis.call("SISMEMBER", claims, id) == 0 and wrong("not-listed", id, run, told(run) .. " and not among its claims", "put there") then
        redis.call("SADD", claims, id)
    end
    if run.state_type == "CANCELLING" and redis.call("SISMEMBER", orders, id) == 0
        and wrong("no-order", id, run, "is to be cancelled, and its worker has no order", "ordered") then
        redis.call("SADD", orders, id)
        nudge(keys.inbox .. run.holder)
    end
    -- Without a group that is a finding of its queue, and a claim whose entry is gone, or that was
    -- taken, needs none.
    if not consumer and is_grouped(keys.stream .. run.queue) and has_entry(id, run)
        and wrong("not-pending", id, run, told(run) .. " and its entry is pending for nobody", "given to it") then
        redis.call("XCLAIM", keys.stream .. run.queue, "workers", run.holder, 0, run.entry, "FORCE", "JUSTID")
        made_room(keys, run.queue, 0)
    end
end

-- A run that was taken never had an entry, and its token begins with its delivery.
look_at["claimed"] = function(id, run)
    local consumer = pending_for(keys.stream .. run.queue, run.entry or "")
    local taken = string.match(run.token or "", "^%d+%.") ~= nil
    local whole = run.holder and run.token and taken ~= (run.entry ~= false)
    if whole and is_registered(keys, run.holder) then
        has_slot(id, run, keys.pool_slots, "the pool", run.claimed_ms)
        has_slot(id, run, keys.queue_slots .. run.queue, "its queue", run.claimed_ms)
        has_deployment_slot(id, run)
        is_known(id, run, consumer)
    elseif not whole then
        if wrong("no-holder", id, run, "is claimed, and its record does not say by whom and how", "taken back") then
            take_back(id, run)
        end
    elseif consumer ~= run.holder and wrong("no-holder", id, run, told(run) .. ", who is not registered", "taken back") then
        take_back(id, run) -- one that is pending for its holder is found as pending
    end
end

look_at["dead"] = function(id, run)
    if not is_in(id, run, keys.dead, id, false, "the dead letters") then
        redis.call("ZADD", keys.dead, run.ended_ms or at_ms, id)
    end
end

look_at["ended"] = function(id, run)
    local retention_ms = tonumber(redis.call("HGET", keys.pool, "retention_ms"))
    if redis.call("PTTL", keys.run .. id) == -1 and wrong("no-ttl", id, run, "has ended, and its record would stay for ever", "given its retention") then
        redis.call("PEXPIRE", keys.run .. id, retention_ms)
    end
    local ended_ms = tonumber(run.ended_ms or at_ms)
    -- The list lets go of the oldest by the present retention, a record goes by that of its end.
    if ended_ms + retention_ms > at_ms and not is_in(id, run, keys.finished, id, false, "the list of them") then
        redis.call("ZADD", keys.finished, ended_ms, id)
        redis.call("PEXPIRE", keys.finished, retention_ms)
    end
end

-- What a record lacks so much that nothing can be said about it; empty when it is whole.
local function lacking(id, run)
    if not look_at[run.place] then
        return "a place"
    end
    for _, name in ipairs({ "queue", "member", "due_ms", "state_type", "delivery", "run_count" }) do
        if not run[name] then
            return name
        end
    end
    if string.sub(run.member, 17) ~= id or not tonumber(run.due_ms) then
        return "a member and a time of its own"
    elseif run.place == "waiting" and (run.deployment or "") == "" then
        return "a deployment to wait for"
    end
    return run.place ~= "ended" and redis.call("HEXISTS", keys.run .. id, "payload") == 0 and "its payload" or ""
end

local function look(id)
    if redis.call("EXISTS", keys.run .. id) == 0 then
        return
    end
    local run = fetch(keys.run .. id, "place", "queue", "member", "due_ms", "state_type", "state_name", "entry", "token",
        "holder", "delivery", "run_count", "deployment", "dispatched_ms", "claimed_ms", "ended_ms")
    local lack = lacking(id, run)
    if lack ~= "" then
        wrong("incomplete", id, run, "its record lacks " .. lack .. "; nothing can be done with it", "")
        return
    end
    if run.place ~= "ended" and redis.call("PTTL", keys.run .. id) >= 0
        and wrong("expires", id, run, told(run) .. " and would be forgotten", "kept") then
        redis.call("PERSIST", keys.run .. id)
    end
    if run.place == "ended" or run.place == "dead" or redis.call("ZSCORE", keys.queues, run.queue) then
        look_at[run.place](id, run)
    else
        wrong("no-queue", id, run, told(run) .. ", a queue that does not exist; create it", "")
    end
end

local done = 0
for i = 5, #ARGV do
    if bytes_left <= 0 then
        break
    end
    look(ARGV[i])
    done = done + 1
end
return { "reconciled", done, findings }
