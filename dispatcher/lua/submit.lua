-- Accept a run: its record, and its place among the scheduled runs of a queue.
--
-- KEYS[1]  pool
-- KEYS[2]  queues
-- KEYS[3]  scheduled     prefix of scheduled:<q>
-- KEYS[4]  run           prefix of run:<id>
-- KEYS[5]  events
-- KEYS[6]  changes
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
-- Returns  {word, detail}: accepted due_ms | duplicate state | ended state | no_pool | no_queue | newer version
-- Uses     now, event, fetch
local keys = { pool = KEYS[1], queues = KEYS[2], scheduled = KEYS[3], run = KEYS[4],
    events = KEYS[5], changes = KEYS[6] }
local at_ms, request, id, queue, due_ms = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local payload, name, run_count, state_name = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local deployment, known_version = ARGV[10], tonumber(ARGV[11])

local version = redis.call("HGET", keys.pool, "version")
if not version then
    return { "no_pool", "" }
elseif tonumber(version) > known_version then
    return { "newer", version }
elseif not redis.call("ZSCORE", keys.queues, queue) then
    return { "no_queue", "" }
end
local before = fetch(keys.run .. id, "request", "place", "state_type", "due_ms")
if before.request == request then
    return { "accepted", before.due_ms }
elseif before.place == "ended" or before.place == "dead" then
    return { "ended", before.state_type }
elseif before.place then
    return { "duplicate", before.state_type }
end

if due_ms == "" then
    due_ms = string.format("%.0f", at_ms)
end
local member = string.format("%016x", redis.call("HINCRBY", keys.pool, "submissions", 1)) .. id
redis.call("HSET", keys.run .. id, "payload", payload, "place", "scheduled",
    "state_type", "SCHEDULED", "state_name", state_name, "queue", queue, "due_ms", due_ms,
    "member", member, "name", name, "deployment", deployment, "request", request,
    "submitted_ms", at_ms, "run_count", run_count, "delivery", 0)
redis.call("ZADD", keys.scheduled .. queue, due_ms, member)
event(keys, at_ms, "submitted", { "run", id, "queue", queue, "to", "SCHEDULED", "due_ms", due_ms })
if redis.call("ZRANK", keys.scheduled .. queue, member) == 0 then
    redis.call("PUBLISH", keys.changes, queue .. " " .. due_ms)
end
return { "accepted", due_ms }
