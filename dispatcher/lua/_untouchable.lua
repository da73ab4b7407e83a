-- Why the data of a pool is not looked at: it has no hash, or a newer release wrote it; else false.
local function untouchable(keys, known_version)
    local version = redis.call("HGET", keys.pool, "version")
    if not version then
        return { "no_pool", "" }
    end
    return tonumber(version) > known_version and { "newer", version }
end
