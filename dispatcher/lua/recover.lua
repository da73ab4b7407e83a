-- Take back what a dead holder had, some runs at a time, and forget it when nothing is left.
-- A holder may be recovered when its lease has ended, when a newer incarnation displaced it, or
-- when it has drained and holds nothing.
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
-- KEYS[18]  holders
-- KEYS[19]  holder        prefix of holder:<h>
-- KEYS[20]  claims        prefix of claims:<h>
-- KEYS[21]  orders        prefix of orders:<h>
-- KEYS[22]  inbox         prefix of inbox:<h>
-- KEYS[23]  workers
-- KEYS[24]  dead
-- KEYS[25]  finished
-- KEYS[26]  events
-- KEYS[27]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  limit         most runs, and most queues, handled in this call
-- Returns  {word, run, what, …}: more | recovered | alive | unknown; what is requeued, dead or ended
-- Uses     fetch, now, event, place_key, unclaimed_entries, made_room, stop_waiting, is_paused, tell_waiting, drop_entry, free_deployment, unschedule, close_delivery, room, nudge, offer, free_slots, close_claim, end_run, note_newest, note_behind, schedule_again, lose
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waiting = KEYS[5], waits = KEYS[6], freed = KEYS[7], newest = KEYS[8], unstarted = KEYS[9],
    stream = KEYS[10], ready = KEYS[11], wake = KEYS[12], run = KEYS[13], idempotency = KEYS[14],
    pool_slots = KEYS[15], queue_slots = KEYS[16], deployment_slots = KEYS[17], holders = KEYS[18],
    holder = KEYS[19], claims = KEYS[20], orders = KEYS[21], inbox = KEYS[22], workers = KEYS[23],
    dead = KEYS[24], finished = KEYS[25], events = KEYS[26], changes = KEYS[27] }
local at_ms, holder, limit = now(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local holder_key, claims_key = keys.holder .. holder, keys.claims .. holder
local him = fetch(holder_key, "worker", "dead", "draining", "swept")
local lease_ms = redis.call("ZSCORE", keys.holders, holder)
if not him.worker then
    redis.call("ZREM", keys.holders, holder)
    return { "unknown" }
end
local drained = him.draining and redis.call("SCARD", claims_key) == 0
if not him.dead and not drained and lease_ms and tonumber(lease_ms) > at_ms then
    return { "alive" }
end

-- PERSIST is let through at full memory and opens the way for the rest.
redis.call("PERSIST", holder_key)
if not him.dead then
    -- Marked first: from here on this incarnation claims nothing and renews nothing.
    redis.call("HSET", holder_key, "dead", "1")
    event(keys, at_ms, drained and "drained" or "worker-lost", { "worker", holder })
end
redis.call("ZADD", keys.holders, 0, holder)

local answer = { "more" }
local function take_back(id)
    redis.call("SREM", claims_key, id)
    local what = lose(keys, id, holder, at_ms)
    if what then
        answer[#answer + 1] = id
        answer[#answer + 1] = what
    end
end
for _, id in ipairs(redis.call("SRANDMEMBER", claims_key, limit)) do
    take_back(id)
end
if redis.call("SCARD", claims_key) > 0 then
    return answer
end

-- Its consumers go at zero pending only: with the consumer Redis drops what is pending for it.
local function leave(queue)
    local stream = keys.stream .. queue
    local pending = redis.pcall("XPENDING", stream, "workers", "-", "+", limit, holder)
    if pending.err then
        return true -- no stream or no group: nothing to leave
    end
    local bytes = 0
    for _, item in ipairs(pending) do
        if bytes > 4194304 then
            return false -- entries are read whole: 4 MiB of them in a call
        end
        local entry = redis.call("XRANGE", stream, item[1], item[1])[1]
        local id = entry and entry[2][2] or ""
        bytes = bytes + #(entry and entry[2][4] or "")
        local run = fetch(keys.run .. id, "place", "entry", "holder", "queue", "member", "due_ms", "state_name", "deployment")
        if run.entry == item[1] and run.place == "claimed" and run.holder == holder then
            take_back(id)
        elseif run.entry == item[1] and run.place == "claimed" then
            redis.call("XCLAIM", stream, "workers", run.holder, 0, item[1], "JUSTID")
        elseif run.entry == item[1] and run.place == "stream" then
            -- Read by hand, past `claim`.
            unschedule(keys, id, run, at_ms)
            schedule_again(keys, id, run)
            event(keys, at_ms, "withdrawn", { "run", id, "queue", queue, "worker", holder })
        else
            drop_entry(keys, queue, item[1])
        end
    end
    if #pending < limit then
        redis.call("XGROUP", "DELCONSUMER", stream, "workers", holder)
    end
    return #pending < limit
end
-- By name, as priorities may change between two calls.
local names, looks_left = redis.call("ZRANGE", keys.queues, 0, -1), limit
table.sort(names)
for _, queue in ipairs(names) do
    if not him.swept or queue > him.swept then
        if looks_left == 0 or not leave(queue) then
            return answer
        end
        looks_left = looks_left - 1
        redis.call("HSET", holder_key, "swept", queue)
    end
end
if redis.call("HGET", keys.workers, him.worker) == holder then
    redis.call("HDEL", keys.workers, him.worker)
end
redis.call("DEL", holder_key, claims_key, keys.inbox .. holder, keys.orders .. holder)
redis.call("ZREM", keys.holders, holder)
event(keys, at_ms, "recovered", { "worker", holder })
answer[1] = "recovered"
return answer
