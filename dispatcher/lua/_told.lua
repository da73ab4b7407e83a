-- Say of a run, for people, where it is by its record.
local function told(run)
    if not run.place then
        return "has no record"
    end
    local by = run.place == "claimed" and " by " .. (run.holder or "nobody") or ""
    return "is " .. run.place .. by .. " in " .. (run.queue or "no queue")
end
