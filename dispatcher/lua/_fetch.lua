-- Read the named fields of a hash as a table; a field that is not there is false.
local function fetch(key, ...)
    local values = redis.call("HMGET", key, ...)
    local record = {}
    for i, name in ipairs({ ... }) do
        record[name] = values[i]
    end
    return record
end
