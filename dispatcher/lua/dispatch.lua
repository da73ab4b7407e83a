-- Move due runs of some queues from their schedules into their streams, oldest due time first.
--
-- KEYS[1]  pool
-- KEYS[2]  queues
-- KEYS[3]  queue         prefix of queue:<q>
-- KEYS[4]  scheduled     prefix of scheduled:<q>
-- KEYS[5]  stream        prefix of stream:<q>
-- KEYS[6]  ready
-- KEYS[7]  wake          prefix of wake:<q>
-- KEYS[8]  run           prefix of run:<id>
-- KEYS[9]  events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  limit         most runs moved in this call
-- ARGV[4]  max_bytes     most payload moved in this call, beyond its first run
-- ARGV[5...]  queues     encoded names
-- Returns  {word, now_us, {queue, more, next_due_ms, {run, due_ms, …}}, …}: dispatched | no_pool | newer; next_due_ms is empty when nothing is scheduled or the stream is full
-- Uses     now, event, fetch, nudge, unclaimed_entries
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    stream = KEYS[5], ready = KEYS[6], wake = KEYS[7], run = KEYS[8], events = KEYS[9] }
local known_version = tonumber(ARGV[2])
local runs_left, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4])
local at_ms, at_us = now(ARGV[1])

local version = redis.call("HGET", keys.pool, "version")
if not version then
    return { "no_pool", at_us }
elseif tonumber(version) > known_version then
    return { "newer", version }
end

-- Move one run; false when it does not belong here, so that only its place is cleared.
local function move(queue, member, due_ms)
    local id = string.sub(member, 17)
    local run = fetch(keys.run .. id, "place", "member", "payload", "run_count", "delivery", "state_type")
    if run.place ~= "scheduled" or run.member ~= member then
        redis.call("ZREM", keys.scheduled .. queue, member)
        return false
    end
    local entry = redis.call("XADD", keys.stream .. queue, "*", "run", id, "payload", run.payload,
        "due_ms", due_ms, "run_count", run.run_count, "delivery", run.delivery + 1)
    redis.call("HSET", keys.run .. id, "place", "stream", "entry", entry, "dispatched_ms", at_ms)
    redis.call("ZREM", keys.scheduled .. queue, member)
    event(keys, at_ms, "dispatched", { "run", id, "queue", queue, "due_ms", due_ms })
    return id, #run.payload
end

local function dispatch(queue)
    local settings = fetch(keys.queue .. queue, "max_unclaimed", "max_unclaimed_bytes", "unclaimed_bytes", "largest_bytes")
    local unclaimed = unclaimed_entries(keys.stream .. queue)
    local bytes_before = tonumber(settings.unclaimed_bytes or 0)
    local bytes = unclaimed > 0 and bytes_before or 0
    local largest = unclaimed > 0 and tonumber(settings.largest_bytes or 0) or 0
    local most = tonumber(settings.max_unclaimed or 1000)
    local most_bytes = tonumber(settings.max_unclaimed_bytes or 67108864)
    local moved, more = {}, 0
    local room = math.min(runs_left, most - unclaimed)
    local due = room > 0 and redis.call("ZRANGE", keys.scheduled .. queue, "-inf", at_ms, "BYSCORE", "LIMIT", 0, room, "WITHSCORES") or {}
    for i = 1, #due, 2 do
        if bytes >= most_bytes or bytes_left <= 0 then
            break
        end
        local id, size = move(queue, due[i], due[i + 1])
        if id then
            moved[#moved + 1] = id
            moved[#moved + 1] = due[i + 1]
            unclaimed, bytes, largest = unclaimed + 1, bytes + size, math.max(largest, size)
            runs_left, bytes_left = runs_left - 1, bytes_left - size
        end
    end
    if bytes ~= bytes_before then
        redis.call("HSET", keys.queue .. queue, "unclaimed_bytes", bytes, "largest_bytes", largest)
    end
    local head = redis.call("ZRANGE", keys.scheduled .. queue, 0, 0, "WITHSCORES")
    local next_due_ms = head[2] or ""
    if head[2] and tonumber(head[2]) <= at_ms then
        if unclaimed >= most or bytes >= most_bytes then
            -- A claim that makes room clears this word and says so once.
            next_due_ms = ""
            redis.call("HSET", keys.queue .. queue, "blocked", "unclaimed")
        else
            more = 1
        end
    end
    if unclaimed > 0 then
        redis.call("ZADD", keys.ready, redis.call("ZSCORE", keys.queues, queue), queue)
        nudge(keys.wake .. queue)
    end
    return { queue, more, next_due_ms, moved }
end

local answer = { "dispatched", at_us }
for i = 5, #ARGV do
    if redis.call("ZSCORE", keys.queues, ARGV[i]) then
        answer[#answer + 1] = dispatch(ARGV[i])
    end
end
return answer
