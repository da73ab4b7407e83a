-- Say whether there is a holder of this id, alive or not yet recovered.
local function is_registered(keys, holder)
    return redis.call("HEXISTS", keys.holder .. holder, "worker") == 1
end
