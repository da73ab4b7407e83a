-- Acknowledge and delete a stream entry. XACK and XDEL are let through at full memory, and as a
-- script's first write they let the rest of it through too.
local function drop_entry(keys, queue, entry)
    redis.call("XACK", keys.stream .. queue, "workers", entry)
    redis.call("XDEL", keys.stream .. queue, entry)
end
