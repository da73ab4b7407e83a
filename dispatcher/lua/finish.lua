-- End a claimed run with its final state, or let it be retried; only for the holder of its token.
-- A run that is being cancelled ends as CANCELLED, whatever it came to.
--
-- KEYS[1]   pool
-- KEYS[2]   queues
-- KEYS[3]   queue         prefix of queue:<q>
-- KEYS[4]   scheduled     prefix of scheduled:<q>
-- KEYS[5]   waits
-- KEYS[6]   freed         prefix of freed:<q>
-- KEYS[7]   newest        prefix of newest:<q>
-- KEYS[8]   unstarted
-- KEYS[9]   stream        prefix of stream:<q>
-- KEYS[10]  ready
-- KEYS[11]  wake          prefix of wake:<q>
-- KEYS[12]  run           prefix of run:<id>
-- KEYS[13]  idempotency   prefix of idempotency:<sha256>
-- KEYS[14]  pool_slots
-- KEYS[15]  queue_slots   prefix of slots:queue:<q>
-- KEYS[16]  deployment_slots  prefix of slots:deployment:<d>
-- KEYS[17]  claims        prefix of claims:<h>
-- KEYS[18]  orders        prefix of orders:<h>
-- KEYS[19]  inbox         prefix of inbox:<h>
-- KEYS[20]  finished
-- KEYS[21]  events
-- KEYS[22]  changes
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  run_id
-- ARGV[3]  token         fencing token of the claim
-- ARGV[4]  run_count     of the start that ends, so that a repeat is told from the end of a retry; empty: no retry under this claim
-- ARGV[5]  state_type    COMPLETED | FAILED | CRASHED | CANCELLED
-- ARGV[6]  state_name
-- ARGV[7]  message       why, for people; may be empty
-- ARGV[8]  output        the last bytes that the run wrote; may be empty
-- ARGV[9]  nudge         1: the holder waits for a free slot
-- Returns  finished | rescheduled | retrying | lost; retrying: the claim goes on, start again after the delay; the same token and run count again get the first answer again
-- Uses     fetch, event, refuse, now, close_delivery, is_paused, unclaimed_entries, room, nudge, offer, tell_waiting, free_deployment, free_slots, drop_entry, close_claim, end_run, place_key, note_newest, note_behind, schedule_again
local keys = { pool = KEYS[1], queues = KEYS[2], queue = KEYS[3], scheduled = KEYS[4],
    waits = KEYS[5], freed = KEYS[6], newest = KEYS[7], unstarted = KEYS[8], stream = KEYS[9],
    ready = KEYS[10], wake = KEYS[11], run = KEYS[12], idempotency = KEYS[13],
    pool_slots = KEYS[14], queue_slots = KEYS[15], deployment_slots = KEYS[16], claims = KEYS[17],
    orders = KEYS[18], inbox = KEYS[19], finished = KEYS[20], events = KEYS[21],
    changes = KEYS[22] }
local at_ms, id, token, run_count = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local state_type, state_name, message, output = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local wants_nudge = ARGV[9] == "1"

local run_key = keys.run .. id
local run = fetch(run_key, "place", "token", "queue", "entry", "holder", "member", "due_ms", "state_type",
    "delivery", "run_count", "started_ms", "deployment", "idempotency", "message", "retries",
    "retry_delay_ms", "retry_type", "answer_token", "answer_count", "answer")
-- Nothing runs while a retry is to come, and a start that a cancel refused is counted or not.
local cancelled = run.place == "claimed" and run.token == token and run.state_type == "CANCELLING"
    and tonumber(run_count ~= "" and run_count or run.run_count) >= tonumber(run.run_count)
if run.answer_token == token and (run.answer ~= "retrying" or run.answer_count == run_count) and not cancelled then
    return run.answer
elseif run.place ~= "claimed" or run.token ~= token then
    return refuse(keys, id, run, at_ms, "lost", "a finish with an old token")
elseif run_count ~= "" and run_count ~= run.run_count and not cancelled then
    return refuse(keys, id, run, at_ms, "lost", "a finish with an old run count")
end

-- RetryFailedFlows: a run that failed while running is run again as long as it has started no more
-- often than it has retries (Prefect core policy).
local function retry(in_process)
    run.due_ms = string.format("%.0f", at_ms + (run.retry_delay_ms or 0))
    run.state_name = "AwaitingRetry"
    if in_process then
        -- PERSIST is let through at full memory and opens the way for the rest.
        redis.call("PERSIST", run_key)
        redis.call("HSET", run_key, "state_type", "SCHEDULED", "state_name", "AwaitingRetry", "due_ms", run.due_ms)
        redis.call("HINCRBY", run_key, "ran_ms", math.max(0, at_ms - (run.started_ms or at_ms)))
    else
        close_claim(keys, id, run, at_ms, state_type)
        schedule_again(keys, id, run)
        redis.call("ZADD", keys.unstarted, run.due_ms, id)
    end
    redis.call("HSET", run_key, "retrying", "1", "message", message)
    event(keys, at_ms, "retrying", { "run", id, "queue", run.queue, "from", run.state_type, "to", "SCHEDULED",
        "worker", run.holder, "due_ms", run.due_ms, "reason", message })
    return in_process and "retrying" or "rescheduled"
end

local function finish()
    close_claim(keys, id, run, at_ms, state_type)
    if run.state_type == "CANCELLING" then
        redis.call("HSET", run_key, "outcome", state_type)
        state_type, state_name, message = "CANCELLED", "Cancelled", run.message or ""
    end
    end_run(keys, id, run, at_ms, state_type, state_name, message)
    event(keys, at_ms, "finished", { "run", id, "queue", run.queue, "from", run.state_type,
        "to", state_type, "worker", run.holder, "reason", message })
    return "finished"
end

local again = state_type == "FAILED" and run.state_type == "RUNNING"
    and tonumber(run.run_count) <= tonumber(run.retries or 0)
-- Who does not say which start has ended could not tell a repeat from the end of a retry.
local answer = again and retry(run.retry_type == "in_process" and run_count ~= "") or finish()
redis.call("HSET", run_key, "output", output, "answer_token", token, "answer_count", run_count, "answer", answer)
if wants_nudge and answer ~= "retrying" then
    nudge(keys.inbox .. run.holder)
end
return answer
