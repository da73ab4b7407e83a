-- Write a flat list of settings, an empty value taking one away; answers what was done, as text.
local function change(key, fields)
    -- PERSIST is let through at full memory and opens the way for the rest: operators can help.
    redis.call("PERSIST", key)
    local told = {}
    for i = 1, #fields, 2 do
        if fields[i + 1] == "" then
            redis.call("HDEL", key, fields[i])
        else
            redis.call("HSET", key, fields[i], fields[i + 1])
        end
        local size = #fields[i + 1]
        local value = size == 0 and "none" or size > 500 and size .. " bytes" or fields[i + 1]
        told[#told + 1] = fields[i] .. "=" .. value
    end
    return table.concat(told, " ")
end
