-- Pass the word on: one waiting worker looks at each of these queues that still has something.
local function wake_again(keys, served)
    for _, queue in ipairs(ready_queues(keys, served)) do
        nudge(keys.wake .. queue)
    end
end
