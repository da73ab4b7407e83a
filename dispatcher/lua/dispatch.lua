-- Move due runs of some queues from their schedules into their streams, oldest due time first.
-- A run whose deployment is full waits apart; one that its queue's late policy drops is cancelled.
-- In a pool that is handed out by polling the others stay in the schedule until somebody takes them.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   deployments
-- KEYS[5]   deployment    prefix of deployment:<d>
-- KEYS[6]   scheduled     prefix of scheduled:<q>
-- KEYS[7]   waiting       prefix of waiting:<d>:<q>
-- KEYS[8]   waits
-- KEYS[9]   freed         prefix of freed:<q>
-- KEYS[10]  newest        prefix of newest:<q>
-- KEYS[11]  unstarted
-- KEYS[12]  stream        prefix of stream:<q>
-- KEYS[13]  ready
-- KEYS[14]  wake          prefix of wake:<q>
-- KEYS[15]  run           prefix of run:<id>
-- KEYS[16]  idempotency   prefix of idempotency:<sha256>
-- KEYS[17]  queue_slots   prefix of slots:queue:<q>
-- KEYS[18]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[19]  finished
-- KEYS[20]  events
-- KEYS[21]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  version       of the data model that the caller knows
-- ARGV[3]  limit         most runs handled in this call
-- ARGV[4]  max_bytes     most payload moved in this call, beyond its first run
-- ARGV[5...]  queues     encoded names
-- Returns  {word, now_us, late_at_ms, {queue, more, next_due_ms, withdraw, {run, due_ms, …}, {run, …}, {run, reason, …}}, …}: dispatched | no_pool | newer; late_at_ms is when `watch` has something to announce; next_due_ms is empty when there is nothing to look at then; withdraw is 1 while a queue that is paused or handed out by polling has unclaimed entries; then what was moved, what waits now, what was skipped
-- Uses     event, is_paused, lift_pause, fetch, place_key, too_late, now, note_newest, seen_all_due, unclaimed_entries, room, nudge, offer, stop_waiting, note_behind, tell_waiting, end_run, skip
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], deployments = KEYS[4],
    deployment = KEYS[5], scheduled = KEYS[6], waiting = KEYS[7], waits = KEYS[8], freed = KEYS[9],
    newest = KEYS[10], unstarted = KEYS[11], stream = KEYS[12], ready = KEYS[13], wake = KEYS[14],
    run = KEYS[15], idempotency = KEYS[16], queue_slots = KEYS[17], deployment_slots = KEYS[18],
    finished = KEYS[19], events = KEYS[20], changes = KEYS[21] }
local known_version = tonumber(ARGV[2])
local runs_left, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4])
local admits_left, looks_left = runs_left, 500
local at_ms, at_us = now(ARGV[1])

local pool = fetch(keys.pool, "version", "paused", "paused_until_ms", "intake_paused",
    "intake_paused_until_ms", "late_after_ms", "handout")
if not pool.version then
    return { "no_pool", at_us }
elseif tonumber(pool.version) > known_version then
    return { "newer", pool.version }
end
for _, kind in ipairs({ "paused", "intake_paused" }) do
    lift_pause(keys, keys.pool, pool, kind, at_ms, "")
end
local pool_paused = is_paused(pool.paused, pool.paused_until_ms, at_ms)
local late_after_ms, polled = tonumber(pool.late_after_ms or 15000), pool.handout == "poll"

-- How many more runs of a deployment may be dispatched in this call, and what happens to the rest.
local deployments = {}
local function deployment_of(id)
    if not deployments[id] then
        local settings = fetch(keys.deployment .. id, "limit", "collision_strategy")
        deployments[id] = { room = room(settings.limit, keys.deployment_slots .. id), strategy = settings.collision_strategy }
    end
    return deployments[id]
end

local function use_room(deployment)
    deployment_of(deployment).room = deployment_of(deployment).room - 1
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
        note_behind(keys, queue, deployment, place_key(first[i + 1], first[i]))
        redis.call("HSET", keys.run .. id, "place", "scheduled", "state_name", "Scheduled")
        redis.call("ZADD", keys.unstarted, at_ms, id)
        stop_waiting(keys, { member = first[i], deployment = deployment, queue = queue })
        event(keys, at_ms, "admitted", { "run", id, "queue", queue, "deployment", deployment })
    end
    admits_left = admits_left - #first / 2
    if polled then
        deployment_of(deployment).room = free - #first / 2 -- they take it when they are taken
    end
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
        use_room(run.deployment)
    end
    if run.claimed_ms then
        -- It came back: `watch` looks once more whether anybody serves its queue.
        redis.call("ZADD", keys.unstarted, "NX", at_ms, id)
    end
    event(keys, at_ms, "dispatched", { "run", id, "queue", queue, "due_ms", run.due_ms })
    return #payload
end

-- Handle one due run: its size when it was moved into the stream, else 0.
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
        note_newest(keys, queue, run.deployment, place_key(run.due_ms, member))
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
        if run.deployment ~= "" then
            tell_waiting(keys, run.deployment, at_ms) -- the room that it had is another one's
        end
        return 0
    elseif full or run.deployment ~= "" and goes_behind(queue, member, run) then
        wait(queue, member, id, run)
        answer.waiting[#answer.waiting + 1] = id
        return 0
    elseif polled then
        if run.deployment ~= "" then
            use_room(run.deployment)
        end
        return 0
    end
    answer.moved[#answer.moved + 1] = id
    answer.moved[#answer.moved + 1] = run.due_ms
    return push(queue, member, id, run)
end

-- In a pool that is handed out by polling: put apart what is due first and whose deployment is full,
-- so that it stands in nobody's way. More than a page lists is not looked at. Answers whether there
-- is more to put apart.
local function sort_out(queue, settings, answer)
    local more = false
    for _, member in ipairs(redis.call("ZRANGE", keys.scheduled .. queue, "-inf", at_ms, "BYSCORE", "LIMIT", 0, 250)) do
        if runs_left <= 0 or looks_left <= 0 then
            return true
        end
        local before = #answer.waiting + #answer.skipped
        move(queue, member, settings, answer)
        looks_left = looks_left - 1
        if #answer.waiting + #answer.skipped > before then
            runs_left, more = runs_left - 1, true
        end
    end
    return more
end

-- What a dispatch does where runs are taken, not claimed. Nobody waits for it: what is taken and what
-- is listed is decided by the limits as they are, so once in half a second is enough.
local function keep_in_order(queue, settings, unclaimed)
    local answer, next_ms, more, is_seen = { waiting = {}, skipped = {} }, "", false, true
    if settings.blocked then
        redis.call("HDEL", keys.queue .. queue, "blocked")
    end
    if redis.call("EXISTS", keys.deployments) == 1 then
        is_seen, looks_left = seen_all_due(keys, queue, settings, at_ms, late_after_ms, looks_left)
        more = not is_seen or sort_out(queue, settings, answer)
        local head = redis.call("ZRANGE", keys.scheduled .. queue, "(" .. at_ms, "+inf", "BYSCORE", "LIMIT", 0, 1, "WITHSCORES")
        next_ms = head[2] and string.format("%.0f", math.max(head[2], at_ms + 500)) or ""
    end
    more = is_seen and let_all_in(queue) or more
    return { queue, more and 1 or 0, next_ms, unclaimed > 0 and 1 or 0, {}, answer.waiting, answer.skipped }
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
    elseif polled then
        return keep_in_order(queue, settings, unclaimed)
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
        local is_seen
        is_seen, looks_left = seen_all_due(keys, queue, settings, at_ms, late_after_ms, looks_left)
        if not is_seen then
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
