-- Take back what a dead holder had, some runs at a time, and forget it when nothing is left.
-- A holder may be recovered when its lease has ended, when a newer incarnation displaced it, or
-- when it has drained and holds nothing.
--
-- KEYS[1]  queues
-- KEYS[2]  holders
-- KEYS[3]  holder        prefix of holder:<h>
-- KEYS[4]  claims        prefix of claims:<h>
-- KEYS[5]  inbox         prefix of inbox:<h>
-- KEYS[6]  workers
-- KEYS[7]  queue         prefix of queue:<q>
-- KEYS[8]  scheduled     prefix of scheduled:<q>
-- KEYS[9]  stream        prefix of stream:<q>
-- KEYS[10] run           prefix of run:<id>
-- KEYS[11] dead
-- KEYS[12] events
-- KEYS[13] changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  limit         most runs, and most queues, handled in this call
-- Returns  {word, run, what, …}: more | recovered | alive | unknown; what is requeued or dead
-- Uses     now, event, fetch, drop_entry, close_delivery, schedule_again, lose
local keys = { queues = KEYS[1], holders = KEYS[2], holder = KEYS[3], claims = KEYS[4],
    inbox = KEYS[5], workers = KEYS[6], queue = KEYS[7], scheduled = KEYS[8], stream = KEYS[9],
    run = KEYS[10], dead = KEYS[11], events = KEYS[12], changes = KEYS[13] }
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
    event(keys, at_ms, drained and "left" or "worker-lost", { "worker", holder })
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
    for _, item in ipairs(pending) do
        local entry = redis.call("XRANGE", stream, item[1], item[1])[1]
        local id = entry and entry[2][2] or ""
        local run = fetch(keys.run .. id, "place", "entry", "holder", "queue", "member", "due_ms")
        if run.entry == item[1] and run.place == "claimed" and run.holder == holder then
            take_back(id)
        elseif run.entry == item[1] and run.place == "claimed" then
            redis.call("XCLAIM", stream, "workers", run.holder, 0, item[1], "JUSTID")
        else
            drop_entry(keys, queue, item[1])
            if run.entry == item[1] and run.place == "stream" then
                redis.call("HDEL", keys.run .. id, "entry")
                schedule_again(keys, id, run)
            end
        end
    end
    if #pending < limit then
        redis.call("XGROUP", "DELCONSUMER", stream, "workers", holder)
    end
    return #pending < limit
end
local first = tonumber(him.swept or 0)
local names = redis.call("ZRANGE", keys.queues, first, first + limit - 1)
for i, queue in ipairs(names) do
    if not leave(queue) then
        redis.call("HSET", holder_key, "swept", first + i - 1)
        return answer
    end
end
if #names == limit then
    redis.call("HSET", holder_key, "swept", first + limit)
    return answer
end
if redis.call("HGET", keys.workers, him.worker) == holder then
    redis.call("HDEL", keys.workers, him.worker)
end
redis.call("DEL", holder_key, claims_key, keys.inbox .. holder)
redis.call("ZREM", keys.holders, holder)
event(keys, at_ms, "recovered", { "worker", holder })
answer[1] = "recovered"
return answer
