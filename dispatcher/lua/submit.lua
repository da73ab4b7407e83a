-- Accept a run: its record, and its place among the scheduled runs of a queue. What an offer of a
-- run that is known means is in docs/semantics.md, "Idempotency and re-offers".
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
-- KEYS[12]  run           prefix of run:<id>
-- KEYS[13]  idempotency   prefix of idempotency:<sha256>
-- KEYS[14]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[15]  dead
-- KEYS[16]  finished
-- KEYS[17]  events
-- KEYS[18]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  request       the same request again gets the same answer
-- ARGV[3]  run_id
-- ARGV[4]  queue         encoded name
-- ARGV[5]  due_ms        empty: now
-- ARGV[6]  payload       kept byte for byte
-- ARGV[7]  name          of the run, for people
-- ARGV[8]  run_count     starts before this submission
-- ARGV[9]  state_name    of its SCHEDULED state
-- ARGV[10] deployment    id, empty for none
-- ARGV[11] version       of the data model that the caller knows
-- ARGV[12] state_id      of its SCHEDULED state, may be empty
-- ARGV[13] idempotency   digest of flow id and idempotency key, empty for none
-- ARGV[14] retries       how often it may be run again after it failed
-- ARGV[15] retry_delay_ms
-- ARGV[16] retry_type    in_process | reschedule
-- ARGV[17] job_version   under which the run was checked; empty: any
-- Returns  {word, detail, run_id}: accepted due_ms | retimed due_ms | duplicate state | claimed state | ended state | paused reason | changed job_version | no_pool | no_queue | newer version; the run id is the first one's under an idempotency key
-- Uses     fetch, event, refuse, place_key, now, is_paused, unclaimed_entries, made_room, stop_waiting, tell_waiting, drop_entry, free_deployment, unschedule, note_newest, note_behind
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waiting = KEYS[5], waits = KEYS[6], freed = KEYS[7], newest = KEYS[8], unstarted = KEYS[9],
    stream = KEYS[10], ready = KEYS[11], run = KEYS[12], idempotency = KEYS[13],
    deployment_slots = KEYS[14], dead = KEYS[15], finished = KEYS[16], events = KEYS[17],
    changes = KEYS[18] }
local at_ms, request, id, queue, due_ms = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local payload, name, run_count, state_name = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local deployment, known_version, state_id, idempotency = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13]
local retries, retry_delay_ms, retry_type, job_version = ARGV[14], ARGV[15], ARGV[16], ARGV[17]

local pool = fetch(keys.pool, "version", "intake_paused", "intake_paused_until_ms", "intake_paused_reason", "idempotency_ttl_ms", "job_version")
if not pool.version then
    return { "no_pool", "", id }
elseif tonumber(pool.version) > known_version then
    return { "newer", pool.version, id }
elseif not redis.call("ZSCORE", keys.queues, queue) then
    return { "no_queue", "", id }
end
local before = fetch(keys.run .. id, "request", "place", "state_type", "due_ms", "offered_ms", "state_id",
    "queue", "member", "entry", "deployment", "idempotency", "retimed", "delivery")
if before.request == request then
    return { before.retimed == request and "retimed" or "accepted", before.offered_ms, id }
end
local first = idempotency ~= "" and redis.call("GET", keys.idempotency .. idempotency)
if first and (first ~= id or not before.place) then
    return { "duplicate", redis.call("HGET", keys.run .. first, "state_type") or "", first }
end

-- What is known and offered as it was, or without a time of its own, is a duplicate wherever it is.
local ended = before.place == "ended" or before.place == "dead"
if before.place and (due_ms == "" or due_ms == before.offered_ms) then
    return { "duplicate", before.state_type, id }
elseif before.place == "claimed" then
    return { refuse(keys, id, before, at_ms, "claimed", "offered for another time while a worker has it"), before.state_type, id }
elseif ended and (state_id == "" or state_id == before.state_id or tonumber(due_ms) <= tonumber(before.offered_ms)) then
    return { refuse(keys, id, before, at_ms, "ended", "offered again after its end"), before.state_type, id }
end
local mine = fetch(keys.queue .. queue, "intake_paused", "intake_paused_until_ms", "intake_paused_reason", "seen_until")
for _, settings in ipairs({ pool, mine }) do
    if is_paused(settings.intake_paused, settings.intake_paused_until_ms, at_ms) then
        local reason = settings.intake_paused_reason or ""
        event(keys, at_ms, "refused", { "run", id, "queue", queue, "reason", "intake is paused: " .. reason })
        return { "paused", reason, id }
    end
end

if job_version ~= "" and job_version ~= (pool.job_version or "0") then
    return { "changed", pool.job_version or 0, id }
end

if due_ms == "" then
    due_ms = string.format("%.0f", at_ms)
end
local known = before.place and not ended
before.payload_bytes = known and redis.call("HSTRLEN", keys.run .. id, "payload")
local member = known and before.member
    or string.format("%016x", redis.call("HINCRBY", keys.pool, "submissions", 1)) .. id
redis.call("HSET", keys.run .. id, "payload", payload, "place", "scheduled",
    "state_type", "SCHEDULED", "state_name", state_name, "queue", queue, "due_ms", due_ms,
    "offered_ms", due_ms, "member", member, "name", name, "deployment", deployment,
    "request", request, "submitted_ms", at_ms, "run_count", run_count, "state_id", state_id,
    "idempotency", idempotency, "retries", retries, "retry_delay_ms", retry_delay_ms,
    "retry_type", retry_type, "delivery", before.delivery or 0)
if known then
    unschedule(keys, id, before, at_ms)
    redis.call("HSET", keys.run .. id, "retimed", request)
    redis.call("HDEL", keys.run .. id, "late_ms")
elseif ended then
    redis.call("HDEL", keys.run .. id, "claimed_ms", "started_ms", "first_started_ms", "ended_ms", "dispatched_ms",
        "waited", "losses", "unstarted", "message", "output", "outcome", "retrying", "ran_ms", "late_ms")
    redis.call("PERSIST", keys.run .. id)
    redis.call("ZREM", keys.finished, id)
    redis.call("ZREM", keys.dead, id)
end
if before.idempotency and before.idempotency ~= "" and before.idempotency ~= idempotency then
    redis.call("PEXPIRE", keys.idempotency .. before.idempotency, pool.idempotency_ttl_ms or 2592000000)
end
if idempotency ~= "" then
    redis.call("SET", keys.idempotency .. idempotency, id)
end
redis.call("ZADD", keys.scheduled .. queue, due_ms, member)
if mine.seen_until then
    note_behind(keys, queue, deployment, place_key(due_ms, member))
end
redis.call("ZADD", keys.unstarted, due_ms, id)
event(keys, at_ms, known and "retimed" or "submitted", { "run", id, "queue", queue,
    "from", before.state_type, "to", "SCHEDULED", "due_ms", due_ms })
if redis.call("ZRANK", keys.scheduled .. queue, member) == 0 then
    redis.call("PUBLISH", keys.changes, queue .. " " .. due_ms)
end
return { known and "retimed" or "accepted", due_ms, id }
