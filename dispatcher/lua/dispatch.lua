-- Move due runs of some queues from their schedules into their streams, oldest due time first.
-- A run whose deployment is full waits apart; one that its queue's late policy drops is cancelled.
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
-- KEYS[16]  queue_slots   prefix of slots:queue:<q>
-- KEYS[17]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[18]  finished
-- KEYS[19]  events
-- KEYS[20]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  limit         most runs handled in this call
-- ARGV[4]  max_bytes     most payload moved in this call, beyond its first run
-- ARGV[5...]  queues     encoded names
-- Returns  {word, now_us, late_at_ms, {queue, more, next_due_ms, withdraw, {run, due_ms, …}, {run, …}, {run, reason, …}}, …}: dispatched | no_pool | newer; late_at_ms is when `watch` has something to announce; next_due_ms is empty when nothing is scheduled or the stream is full; withdraw is 1 while a paused queue has unclaimed entries; then what was moved, what waits now, what was skipped
-- Uses     event, is_paused, lift_pause, fetch, place_key, too_late, now, unclaimed_entries, room, nudge, offer, stop_waiting, tell_waiting, end_run, skip
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], deployment = KEYS[4],
    scheduled = KEYS[5], waiting = KEYS[6], waits = KEYS[7], freed = KEYS[8], newest = KEYS[9],
    unstarted = KEYS[10], stream = KEYS[11], ready = KEYS[12], wake = KEYS[13], run = KEYS[14],
    idempotency = KEYS[15], queue_slots = KEYS[16], deployment_slots = KEYS[17],
    finished = KEYS[18], events = KEYS[19], changes = KEYS[20] }
local known_version = tonumber(ARGV[2])
local runs_left, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4])
local admits_left, looks_left = runs_left, 500
local at_ms, at_us = now(ARGV[1])

local pool = fetch(keys.pool, "version", "paused", "paused_until_ms", "intake_paused",
    "intake_paused_until_ms", "late_after_ms")
if not pool.version then
    return { "no_pool", at_us }
elseif tonumber(pool.version) > known_version then
    return { "newer", pool.version }
end
for _, kind in ipairs({ "paused", "intake_paused" }) do
    lift_pause(keys, keys.pool, pool, kind, at_ms, "")
end
local pool_paused = is_paused(pool.paused, pool.paused_until_ms, at_ms)
local late_after_ms = tonumber(pool.late_after_ms or 15000)

-- How many more runs of a deployment may be dispatched in this call, and what happens to the rest.
local deployments = {}
local function deployment_of(id)
    if not deployments[id] then
        local settings = fetch(keys.deployment .. id, "limit", "collision_strategy")
        deployments[id] = { room = room(settings.limit, keys.deployment_slots .. id), strategy = settings.collision_strategy }
    end
    return deployments[id]
end

-- Whether runs of a queue before this one wait for a deployment, found once for each queue.
local ahead = {}

-- Put runs that wait for a deployment back to their places, as many as it has room for. Answers
-- whether its mark is gone, and whether only the budget of this call has ended.
local function let_in(queue, deployment)
    local free, waiting = deployment_of(deployment).room, keys.waiting .. deployment .. ":" .. queue
    -- The word goes to a queue before this one in which runs wait, if there is any.
    local told = free > 0 and tell_waiting(keys, deployment, at_ms)
    local mine = free <= 0 or told == queue
    ahead[deployment] = told == queue and false or nil
    local most = mine and math.min(free, admits_left) or 0
    local first = most > 0 and redis.call("ZRANGE", waiting, 0, most - 1, "WITHSCORES") or {}
    for i = 1, #first, 2 do
        local id = string.sub(first[i], 17)
        redis.call("ZADD", keys.scheduled .. queue, first[i + 1], first[i])
        redis.call("HSET", keys.run .. id, "place", "scheduled", "state_name", "Scheduled")
        redis.call("ZADD", keys.unstarted, at_ms, id)
        stop_waiting(keys, { member = first[i], deployment = deployment, queue = queue })
        event(keys, at_ms, "admitted", { "run", id, "queue", queue, "deployment", deployment })
    end
    admits_left = admits_left - #first / 2
    if mine and free > #first / 2 and redis.call("EXISTS", waiting) == 1 then
        return false, true
    end
    redis.call("SREM", keys.freed .. queue, deployment)
    if mine and free > #first / 2 then
        tell_waiting(keys, deployment, at_ms)
    end
    return true, false
end

-- Let in what waits for the deployments that have a mark; answers whether there is more to let in.
local function let_all_in(queue)
    local marks = redis.call("SRANDMEMBER", keys.freed .. queue, 100)
    local gone, more = 0, false
    for _, deployment in ipairs(marks) do
        local is_gone, has_more = let_in(queue, deployment)
        gone, more = gone + (is_gone and 1 or 0), more or has_more
    end
    return more or (gone > 0 and #marks == 100 and redis.call("EXISTS", keys.freed .. queue) == 1)
end

-- A paused or full queue keeps its marks for later; those behind it need not wait for that.
local function pass_on(queue)
    for _, deployment in ipairs(redis.call("SRANDMEMBER", keys.freed .. queue, 100)) do
        if deployment_of(deployment).room > 0 then
            tell_waiting(keys, deployment, at_ms)
        end
    end
end

-- A run does not pass by those that have waited for its deployment: earlier ones of its queue, and
-- any of a queue before it.
local function goes_behind(queue, member, run)
    if deployment_of(run.deployment).room == math.huge then
        return false
    end
    local head = redis.call("ZRANGE", keys.waiting .. run.deployment .. ":" .. queue, 0, 0, "WITHSCORES")
    if head[2] and place_key(head[2], head[1]) < place_key(run.due_ms, member) then
        return true
    end
    if ahead[run.deployment] == nil then
        local priority = tonumber(redis.call("ZSCORE", keys.queues, queue))
        ahead[run.deployment] = tell_waiting(keys, run.deployment, at_ms, priority) ~= nil
    end
    return ahead[run.deployment]
end

local function note_newest(queue, deployment, place)
    local newest = redis.call("HGET", keys.newest .. queue, deployment)
    if deployment ~= "" and (not newest or newest < place) then
        redis.call("HSET", keys.newest .. queue, deployment, place)
    end
end

-- Under `late_policy` latest, know the newest due run of each deployment before a late one moves.
-- A part of the schedule at a time: answers whether all that is due has been seen.
local function seen_all_due(queue, settings)
    local head = redis.call("ZRANGE", keys.scheduled .. queue, 0, 0, "WITHSCORES")
    if settings.late_policy ~= "latest" or not head[2] or at_ms - head[2] < late_after_ms then
        return true
    end
    if looks_left <= 0 then
        return false
    end
    local last = redis.call("HGET", keys.queue .. queue, "seen_until")
    local rank = last and redis.call("ZRANK", keys.scheduled .. queue, string.sub(last, 16))
    local first = rank and rank + 1 or last and redis.call("ZCOUNT", keys.scheduled .. queue, "-inf", "(" .. tonumber(string.sub(last, 1, 15))) or 0
    local page = redis.call("ZRANGE", keys.scheduled .. queue, first, first + looks_left - 1, "WITHSCORES")
    local is_last = #page / 2 < looks_left
    looks_left = looks_left - #page / 2
    for i = 1, #page, 2 do
        if tonumber(page[i + 1]) > at_ms then
            is_last = true
            break
        end
        last = place_key(page[i + 1], page[i])
        note_newest(queue, redis.call("HGET", keys.run .. string.sub(page[i], 17), "deployment") or "", last)
        redis.call("HSET", keys.queue .. queue, "seen_until", last)
    end
    return is_last
end

local function wait(queue, member, id, run)
    redis.call("ZADD", keys.waiting .. run.deployment .. ":" .. queue, run.due_ms, member)
    redis.call("ZADD", keys.waits, 0, run.deployment .. " " .. queue)
    redis.call("HSET", keys.run .. id, "place", "waiting", "state_name", "AwaitingConcurrencySlot", "waited", "1")
    redis.call("ZREM", keys.scheduled .. queue, member)
    redis.call("ZREM", keys.unstarted, id)
    event(keys, at_ms, "waiting", { "run", id, "queue", queue, "deployment", run.deployment })
end

local function push(queue, member, id, run)
    local payload = redis.call("HGET", keys.run .. id, "payload")
    local entry = redis.call("XADD", keys.stream .. queue, "*", "run", id, "payload", payload,
        "due_ms", run.due_ms, "run_count", run.run_count, "delivery", run.delivery + 1)
    redis.call("HSET", keys.run .. id, "place", "stream", "entry", entry, "dispatched_ms", at_ms)
    redis.call("ZREM", keys.scheduled .. queue, member)
    if run.deployment ~= "" then
        redis.call("ZADD", keys.deployment_slots .. run.deployment, at_ms, id)
        deployment_of(run.deployment).room = deployment_of(run.deployment).room - 1
    end
    if run.claimed_ms then
        -- It came back: `watch` looks once more whether anybody serves its queue.
        redis.call("ZADD", keys.unstarted, "NX", at_ms, id)
    end
    event(keys, at_ms, "dispatched", { "run", id, "queue", queue, "due_ms", run.due_ms })
    return #payload
end

-- Handle one due run: its size when it was moved, else where it went.
local function move(queue, member, settings, answer)
    local id = string.sub(member, 17)
    local run = fetch(keys.run .. id, "place", "member", "queue", "due_ms", "run_count", "delivery",
        "deployment", "waited", "claimed_ms", "dispatched_ms", "idempotency")
    if run.place ~= "scheduled" or run.member ~= member then
        redis.call("ZREM", keys.scheduled .. queue, member)
        return 0
    end
    if settings.late_policy == "latest" then
        -- One that is on time now may be the latest when somebody claims it.
        note_newest(queue, run.deployment, place_key(run.due_ms, member))
    end
    local full = run.deployment ~= "" and deployment_of(run.deployment).room <= 0
    local reason = too_late(keys, queue, settings, run, at_ms, late_after_ms)
    if not reason and full and deployment_of(run.deployment).strategy == "CANCEL_NEW" and not run.waited and not run.dispatched_ms then
        reason = "Deployment concurrency limit reached."
    end
    if reason then
        redis.call("ZREM", keys.scheduled .. queue, member)
        skip(keys, id, run, at_ms, reason)
        answer.skipped[#answer.skipped + 1] = id
        answer.skipped[#answer.skipped + 1] = reason
        return 0
    elseif full or run.deployment ~= "" and goes_behind(queue, member, run) then
        wait(queue, member, id, run)
        answer.waiting[#answer.waiting + 1] = id
        return 0
    end
    answer.moved[#answer.moved + 1] = id
    answer.moved[#answer.moved + 1] = run.due_ms
    return push(queue, member, id, run)
end

local function dispatch(queue)
    ahead = {}
    local settings = fetch(keys.queue .. queue, "max_unclaimed", "max_unclaimed_bytes", "unclaimed_bytes",
        "largest_bytes", "paused", "paused_until_ms", "intake_paused", "intake_paused_until_ms",
        "late_policy", "late_drop_ms", "blocked")
    for _, kind in ipairs({ "paused", "intake_paused" }) do
        lift_pause(keys, keys.queue .. queue, settings, kind, at_ms, queue)
    end
    local unclaimed = unclaimed_entries(keys.stream .. queue)
    local paused = is_paused(settings.paused, settings.paused_until_ms, at_ms)
    if settings.paused and not paused then
        offer(keys, queue, at_ms) -- its pause has ended, whether its pool is paused or not
    end
    if pool_paused or paused then
        local ends = { pool_paused and (pool.paused_until_ms or math.huge) or 0,
            paused and (settings.paused_until_ms or math.huge) or 0 }
        local look_ms = math.max(tonumber(ends[1]), tonumber(ends[2]))
        if not pool_paused then
            pass_on(queue)
        end
        return { queue, 0, look_ms < math.huge and string.format("%.0f", look_ms) or "", unclaimed > 0 and 1 or 0, {}, {}, {} }
    end

    local bytes_before = tonumber(settings.unclaimed_bytes or 0)
    local bytes = unclaimed > 0 and bytes_before or 0
    local largest = unclaimed > 0 and tonumber(settings.largest_bytes or 0) or 0
    local most = tonumber(settings.max_unclaimed or 1000)
    local most_bytes = tonumber(settings.max_unclaimed_bytes or 67108864)
    local answer, more = { moved = {}, waiting = {}, skipped = {} }, false
    local function is_full()
        return unclaimed >= most or bytes >= most_bytes
    end
    if settings.blocked and not is_full() then
        redis.call("HDEL", keys.queue .. queue, "blocked")
    end
    if not is_full() and runs_left > 0 then
        more = let_all_in(queue)
        if not seen_all_due(queue, settings) then
            return { queue, 1, "", 0, {}, {}, {} }
        end
    end
    local due = not is_full() and runs_left > 0
        and redis.call("ZRANGE", keys.scheduled .. queue, "-inf", at_ms, "BYSCORE", "LIMIT", 0, runs_left) or {}
    for _, member in ipairs(due) do
        if is_full() or bytes_left <= 0 then
            break
        end
        local size = move(queue, member, settings, answer)
        runs_left = runs_left - 1
        if size > 0 then
            unclaimed, bytes, largest = unclaimed + 1, bytes + size, math.max(largest, size)
            bytes_left = bytes_left - size
        end
    end
    if bytes ~= bytes_before then
        redis.call("HSET", keys.queue .. queue, "unclaimed_bytes", bytes, "largest_bytes", largest)
    end
    local head = redis.call("ZRANGE", keys.scheduled .. queue, 0, 0, "WITHSCORES")
    local next_due_ms = head[2] or ""
    local is_due = head[2] and tonumber(head[2]) <= at_ms
    local waits = runs_left <= 0 and redis.call("EXISTS", keys.freed .. queue) == 1
    if is_full() and (is_due or redis.call("EXISTS", keys.freed .. queue) == 1) then
        -- A claim that makes room clears this word and says so once.
        next_due_ms, more = is_due and "" or next_due_ms, false
        redis.call("HSET", keys.queue .. queue, "blocked", "unclaimed")
        pass_on(queue)
    else
        more = more or is_due or waits
    end
    if unclaimed > 0 then
        offer(keys, queue, at_ms, unclaimed)
    end
    return { queue, more and 1 or 0, next_due_ms, 0, answer.moved, answer.waiting, answer.skipped }
end

local head = redis.call("ZRANGE", keys.unstarted, 0, 0, "WITHSCORES")
local answer = { "dispatched", at_us, head[2] and string.format("%.0f", head[2] + late_after_ms) or "" }
local named = {}
for i = 5, #ARGV do
    local priority = redis.call("ZSCORE", keys.queues, ARGV[i])
    if priority then
        named[#named + 1] = { tonumber(priority), ARGV[i] }
    end
end
-- Highest priority first: where a deployment has room for one run only, it is that one's.
table.sort(named, function(a, b) return a[1] < b[1] end)
for _, each in ipairs(named) do
    answer[#answer + 1] = dispatch(each[2])
end
return answer
