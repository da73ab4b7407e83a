-- Take away a pause of a pool or queue whose end has come; `kind` is paused or intake_paused.
local function lift_pause(keys, key, settings, kind, at_ms, queue)
    if settings[kind] == "1" and not is_paused("1", settings[kind .. "_until_ms"], at_ms) then
        local name = kind == "paused" and "resumed" or "intake-resumed"
        event(keys, at_ms, name, { "queue", queue, "reason", "the end of the pause has come" })
        redis.call("HDEL", key, kind, kind .. "_until_ms", kind .. "_reason", kind .. "_by", kind .. "_ms")
    end
end
