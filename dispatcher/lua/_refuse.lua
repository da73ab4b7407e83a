-- Leave an event of a call about a known run that was refused, and answer with the word.
local function refuse(keys, id, run, at_ms, word, reason)
    if run.place then
        -- Deleting nothing is let through at full memory and opens the way for the event.
        redis.call("HDEL", keys.run .. id, "refused")
        event(keys, at_ms, "refused", { "run", id, "queue", run.queue, "reason", reason })
    end
    return word
end
