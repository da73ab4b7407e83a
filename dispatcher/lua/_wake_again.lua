-- Pass the word on: one waiting worker looks at each of these queues that still has something.
-- Answers how many there are.
local function wake_again(keys, served, at_ms)
    local ready = ready_queues(keys, served, at_ms)
    for _, queue in ipairs(ready) do
        nudge(keys.wake .. queue)
    end
    return #ready
end
