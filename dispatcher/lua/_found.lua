-- Note something that does not agree; `repair` is empty when only people can do something about it.
-- Answers whether the caller is to repair it now.
local function found(keys, findings, fix, at_ms, what, queue, id, problem, repair)
    local repairs = fix and repair ~= ""
    findings[#findings + 1] = { what, queue, id, problem, repair, repairs and 1 or 0 }
    if repairs then
        event(keys, at_ms, "repaired", { "run", id, "queue", queue, "what", what, "reason", problem })
    end
    return repairs
end
