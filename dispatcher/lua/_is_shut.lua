-- Say whether nothing is handed out and nothing accepted: one of these hashes has each pause.
local function is_shut(hashes, at_ms)
    for _, kind in ipairs({ "paused", "intake_paused" }) do
        local paused = false
        for _, key in ipairs(hashes) do
            local settings = fetch(key, kind, kind .. "_until_ms")
            paused = paused or is_paused(settings[kind], settings[kind .. "_until_ms"], at_ms)
        end
        if not paused then
            return false
        end
    end
    return true
end
