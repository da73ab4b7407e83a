-- Tell a holder to claim nothing more; its runs go on, its lease too.
--
-- KEYS[1]   pool
-- KEYS[2]   ready
-- KEYS[3]   wake          prefix of wake:<q>
-- KEYS[4]   pool_slots
-- KEYS[5]   holder        prefix of holder:<h>
-- KEYS[6]   claims        prefix of claims:<h>
-- KEYS[7]   inbox         prefix of inbox:<h>
-- KEYS[8]   events
-- ARGV[1]  now_ms        empty: the server's clock
-- ARGV[2]  holder
-- ARGV[3]  reason        for people
-- ARGV[4]  by            who wants it, empty for the holder itself
-- Returns  draining | drained | lost; drained when it holds nothing
-- Uses     fetch, now, event, nudge, is_paused, room, ready_queues, wake_again
local keys = { pool = KEYS[1], ready = KEYS[2], wake = KEYS[3], pool_slots = KEYS[4],
    holder = KEYS[5], claims = KEYS[6], inbox = KEYS[7], events = KEYS[8] }
local at_ms, holder, reason, by = now(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

local me = fetch(keys.holder .. holder, "worker", "dead", "queues", "draining")
-- PERSIST is let through at full memory and opens the way for the rest.
redis.call("PERSIST", keys.holder .. holder)
if not me.worker or me.dead then
    wake_again(keys, me.queues or "", at_ms) -- it may have taken a wake that it no longer acts on
    return "lost"
end
if not me.draining then
    redis.call("HSET", keys.holder .. holder, "draining", "1")
    nudge(keys.inbox .. holder)
    event(keys, at_ms, "draining", { "worker", holder, "reason", reason, "by", by })
end
wake_again(keys, me.queues, at_ms)
return redis.call("SCARD", keys.claims .. holder) == 0 and "drained" or "draining"
