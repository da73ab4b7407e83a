-- Append one event; `fields` is a flat list of further names and values, empty values left out.
local function event(keys, at_ms, name, fields)
    local entry = { "event", name, "at_ms", at_ms }
    for i = 1, #fields, 2 do
        if fields[i + 1] and fields[i + 1] ~= "" then
            entry[#entry + 1] = fields[i]
            entry[#entry + 1] = fields[i + 1]
        end
    end
    redis.call("XADD", keys.events, "MAXLEN", "~", 10000, "*", unpack(entry))
end
