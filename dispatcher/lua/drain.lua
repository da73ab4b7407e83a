-- Tell a holder to claim nothing more; its runs go on, its lease too.
--
-- KEYS[1]  holder        prefix of holder:<h>
-- KEYS[2]  claims        prefix of claims:<h>
-- KEYS[3]  inbox         prefix of inbox:<h>
-- KEYS[4]  ready
-- KEYS[5]  wake          prefix of wake:<q>
-- KEYS[6]  events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  reason        for people
-- Returns  draining | drained | lost; drained when it holds nothing
-- Uses     now, event, fetch, nudge, ready_queues, wake_again
local keys = { holder = KEYS[1], claims = KEYS[2], inbox = KEYS[3], ready = KEYS[4],
    wake = KEYS[5], events = KEYS[6] }
local at_ms, holder, reason = now(ARGV[1]), ARGV[2], ARGV[3]

local me = fetch(keys.holder .. holder, "worker", "dead", "queues", "draining")
-- PERSIST is let through at full memory and opens the way for the rest.
redis.call("PERSIST", keys.holder .. holder)
if not me.worker or me.dead then
    wake_again(keys, me.queues or "") -- it may have taken a wake that it no longer acts on
    return "lost"
end
if not me.draining then
    redis.call("HSET", keys.holder .. holder, "draining", "1")
    nudge(keys.inbox .. holder)
    event(keys, at_ms, "draining", { "worker", holder, "reason", reason })
end
wake_again(keys, me.queues)
return redis.call("SCARD", keys.claims .. holder) == 0 and "drained" or "draining"
