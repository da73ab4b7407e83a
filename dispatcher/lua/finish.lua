-- End a claimed run with its final state; only for the holder of its token.
--
-- KEYS[1]  pool
-- KEYS[2]  run           prefix of run:<id>
-- KEYS[3]  stream        prefix of stream:<q>
-- KEYS[4]  claims        prefix of claims:<h>
-- KEYS[5]  inbox         prefix of inbox:<h>
-- KEYS[6]  finished
-- KEYS[7]  events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  state_type    COMPLETED | FAILED | CRASHED | CANCELLED
-- ARGV[5]  state_name
-- ARGV[6]  message       why, for people; may be empty
-- ARGV[7]  output        the last bytes that the run wrote; may be empty
-- ARGV[8]  nudge         1: the holder waits for a free slot
-- Returns  finished | lost; the same token again gets the first answer again
-- Uses     now, event, fetch, nudge, drop_entry, close_delivery
local keys = { pool = KEYS[1], run = KEYS[2], stream = KEYS[3], claims = KEYS[4], inbox = KEYS[5],
    finished = KEYS[6], events = KEYS[7] }
local at_ms, id, token, state_type, state_name = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local message, output, wants_nudge = ARGV[6], ARGV[7], ARGV[8] == "1"

local run_key = keys.run .. id
local run = fetch(run_key, "place", "token", "queue", "entry", "holder", "state_type", "delivery",
    "answer_token", "answer")
if run.answer_token == token then
    return run.answer
elseif run.place ~= "claimed" or run.token ~= token then
    return "lost"
end

drop_entry(keys, run.queue, run.entry)
close_delivery(run_key, run.delivery, at_ms, state_type)
redis.call("SREM", keys.claims .. run.holder, id)
local settings = fetch(keys.pool, "retention_ms", "keep_payload")
if state_type == "COMPLETED" or state_type == "CANCELLED" then
    if settings.keep_payload ~= "1" then
        redis.call("HDEL", run_key, "payload")
    end
end
redis.call("HSET", run_key, "place", "ended", "state_type", state_type, "state_name", state_name,
    "message", message, "output", output, "ended_ms", at_ms, "answer_token", token,
    "answer", "finished")
redis.call("PEXPIRE", run_key, settings.retention_ms)
redis.call("ZADD", keys.finished, at_ms, id)
redis.call("PEXPIRE", keys.finished, settings.retention_ms)
-- Two old ones leave for each that comes, so the list follows the records without a long step.
local old = redis.call("ZRANGE", keys.finished, "-inf", at_ms - settings.retention_ms, "BYSCORE", "LIMIT", 0, 2)
for _, gone in ipairs(old) do
    redis.call("ZREM", keys.finished, gone)
end
event(keys, at_ms, "finished", { "run", id, "queue", run.queue, "from", run.state_type,
    "to", state_type, "worker", run.holder, "reason", message })
if wants_nudge then
    nudge(keys.inbox .. run.holder)
end
return "finished"
