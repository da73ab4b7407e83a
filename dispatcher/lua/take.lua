-- Take one due run of a pool that is handed out by polling: claim and start in one, for a holder of
-- its own. Of all who try exactly one gets it; the same holder again gets the same answer again.
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
-- KEYS[13]  run           prefix of run:<id>
-- KEYS[14]  idempotency   prefix of idempotency:<sha256>
-- KEYS[15]  pool_slots
-- KEYS[16]  queue_slots   prefix of slots:queue:<q>
-- KEYS[17]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[18]  holders
-- KEYS[19]  holder        prefix of holder:<h>
-- KEYS[20]  claims        prefix of claims:<h>
-- KEYS[21]  workers
-- KEYS[22]  finished
-- KEYS[23]  events
-- KEYS[24]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  run_id
-- ARGV[4]  holder        <worker>.<incarnation>, made here; it has this run and gets no other
-- ARGV[5]  worker        a name that no other holder has
-- ARGV[6]  host
-- ARGV[7]  pid
-- ARGV[8]  type          of the worker
-- Returns  {word, detail, lease_ms, renew_ms, {run, …}}: taken | claimed holder | ended state | streamed | not_due due_ms | paused pool or queue | full pool or queue | waiting deployment | skipped reason | lost | more | unknown | no_pool | newer version; all but word and detail only when taken, the row as of `claim`; streamed: its pool hands out to claims; skipped: it is cancelled now; lost: this holder has had its run; more: call again
-- Uses     fetch, event, refuse, place_key, too_late, now, is_paused, note_newest, seen_all_due, unclaimed_entries, made_room, begin, tell_waiting, drop_entry, free_deployment, end_run, skip, hold, room
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], deployment = KEYS[4],
    scheduled = KEYS[5], waiting = KEYS[6], waits = KEYS[7], freed = KEYS[8], newest = KEYS[9],
    unstarted = KEYS[10], stream = KEYS[11], ready = KEYS[12], run = KEYS[13],
    idempotency = KEYS[14], pool_slots = KEYS[15], queue_slots = KEYS[16],
    deployment_slots = KEYS[17], holders = KEYS[18], holder = KEYS[19], claims = KEYS[20],
    workers = KEYS[21], finished = KEYS[22], events = KEYS[23], changes = KEYS[24] }
local at_ms, known_version, id, holder = now(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local worker, host, pid, kind = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local pool = fetch(keys.pool, "version", "handout", "limit", "paused", "paused_until_ms",
    "late_after_ms", "lease_ms", "renew_ms", "job_version")
if not pool.version then
    return { "no_pool", "" }
elseif tonumber(pool.version) > known_version then
    return { "newer", pool.version }
end
local run_key, holder_key = keys.run .. id, keys.holder .. holder
local run = fetch(run_key, "place", "queue", "member", "entry", "due_ms", "state_type", "holder",
    "delivery", "run_count", "deployment", "idempotency", "claimed_ms", "dispatched_ms", "waited",
    "retrying", "first_started_ms")
if not run.place then
    return { "unknown", "" }
end
local settings = fetch(keys.queue .. run.queue, "limit", "paused", "paused_until_ms", "late_policy",
    "late_drop_ms", "timeout_ms", "cancel_grace_ms", "unserved_ms")

local function answered()
    local has = fetch(run_key, "token", "payload", "due_ms", "run_count", "delivery", "name", "retry_delay_ms")
    return { "taken", "", tonumber(pool.lease_ms), tonumber(pool.renew_ms), { id, run.queue, has.token,
        has.payload, has.due_ms, has.run_count, has.delivery, has.name, settings.timeout_ms or "",
        settings.cancel_grace_ms or "", has.retry_delay_ms or "", pool.job_version or 0 } }
end
local function refused(word, detail, reason)
    return { refuse(keys, id, run, at_ms, word, "taken " .. reason), detail }
end

local me = fetch(holder_key, "worker", "dead")
local named = redis.call("HGET", keys.workers, worker)
if run.place == "claimed" and run.holder == holder and not me.dead then
    return answered()
elseif me.worker or named and named ~= holder and redis.call("EXISTS", keys.holder .. named) == 1 then
    return refused("lost", "", "by a holder that has had its run")
elseif run.place == "ended" or run.place == "dead" then
    return refused("ended", run.state_type, "after its end")
elseif run.place == "claimed" then
    return refused("claimed", run.holder, "while somebody has it")
elseif pool.handout ~= "poll" then
    return refused("streamed", "", "though its pool is handed out by stream")
elseif tonumber(run.due_ms) > at_ms then
    return refused("not_due", run.due_ms, "before it is due")
elseif is_paused(pool.paused, pool.paused_until_ms, at_ms) then
    return refused("paused", "pool", "while its pool is paused")
elseif is_paused(settings.paused, settings.paused_until_ms, at_ms) then
    return refused("paused", "queue", "while its queue is paused")
elseif run.place == "waiting" then
    return refused("waiting", run.deployment, "while it waits for its deployment")
elseif room(pool.limit, keys.pool_slots) <= 0 then
    return refused("full", "pool", "while its pool is full")
elseif room(settings.limit, keys.queue_slots .. run.queue) <= 0 then
    return refused("full", "queue", "while its queue is full")
end

-- PERSIST is let through at full memory and opens the way for the rest: what waits can be run.
redis.call("PERSIST", run_key)
local late_after_ms = tonumber(pool.late_after_ms or 15000)
if at_ms - run.due_ms >= late_after_ms and not seen_all_due(keys, run.queue, settings, at_ms, late_after_ms, 500) then
    return { "more", "" }
end

-- Whether its deployment has a slot for it, and none that runs before it in its queue wait for. One
-- that is still in its stream has a slot since it was dispatched.
local reason = too_late(keys, run.queue, settings, run, at_ms, late_after_ms)
local is_held_up, room_left = false, math.huge
if not reason and run.deployment ~= "" and run.place == "scheduled" then
    local deployment = fetch(keys.deployment .. run.deployment, "limit", "collision_strategy")
    room_left = room(deployment.limit, keys.deployment_slots .. run.deployment)
    local head = redis.call("ZRANGE", keys.waiting .. run.deployment .. ":" .. run.queue, 0, 0, "WITHSCORES")
    local is_behind = room_left < math.huge and head[2] and place_key(head[2], head[1]) < place_key(run.due_ms, run.member)
    is_held_up = room_left <= 0 or is_behind
    if room_left <= 0 and deployment.collision_strategy == "CANCEL_NEW" and not run.waited and not run.dispatched_ms then
        reason = "Deployment concurrency limit reached."
    end
end
if is_held_up and not reason then
    return refused("waiting", run.deployment, "while its deployment is full")
end

-- It leaves the schedule; or its stream, if that was not emptied yet since polling began.
if run.place == "scheduled" then
    redis.call("ZREM", keys.scheduled .. run.queue, run.member)
else
    drop_entry(keys, run.queue, run.entry)
    redis.call("HDEL", run_key, "entry")
    made_room(keys, run.queue, redis.call("HSTRLEN", run_key, "payload"))
end
if reason then
    free_deployment(keys, id, run.deployment, at_ms)
    if run.deployment ~= "" then
        tell_waiting(keys, run.deployment, at_ms) -- it may have been let in, and the next one not
    end
    skip(keys, id, run, at_ms, reason)
    return { "skipped", reason }
end

-- It drains from the beginning, so nothing is left of it as soon as its run has ended.
redis.call("HSET", holder_key, "worker", worker, "queues", run.queue, "slots", 1, "host", host,
    "pid", pid, "type", kind, "registered_ms", at_ms, "claim_number", 1, "claim_runs", id, "draining", "1")
redis.call("HSET", keys.workers, worker, holder)
redis.call("ZADD", keys.holders, at_ms + pool.lease_ms, holder)
event(keys, at_ms, "registered", { "worker", holder })
local delivery = run.delivery + 1
-- Without an entry the delivery stands for it; the incarnation makes a token unique after lost writes.
hold(keys, id, run, holder, 1, delivery .. "." .. string.match(holder, "[^.]*$") .. ".1", at_ms)
run.state_type = "PENDING"
begin(keys, id, run, delivery, run.run_count + 1, holder, at_ms)
redis.call("HSET", run_key, "dispatched_ms", at_ms)
if run.deployment ~= "" then
    redis.call("ZADD", keys.deployment_slots .. run.deployment, "NX", at_ms, id)
    if room_left == 1 and redis.call("EXISTS", keys.waiting .. run.deployment .. ":" .. run.queue) == 0 then
        redis.call("PUBLISH", keys.changes, run.queue .. " 0") -- those behind it are to wait apart
    end
end
if settings.late_policy == "latest" then
    note_newest(keys, run.queue, run.deployment, place_key(run.due_ms, run.member))
end
if settings.unserved_ms then
    redis.call("HDEL", keys.queue .. run.queue, "unserved_ms")
end
if room(settings.limit, keys.queue_slots .. run.queue) <= 0 then
    redis.call("ZREM", keys.ready, run.queue) -- it is there while its stream is not emptied yet
end
return answered()
