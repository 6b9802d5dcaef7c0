-- The count of a tenant's queued jobs must be what lies in the sets. Counted in one step, so nothing moves meanwhile;
-- where too many jobs are held, delayed or suspect for that, nothing is said.
--   dq:queued:{tenant} string  put right      dq:ready, dq:suspects, dq:held, dq:delayed zsets  counted
-- ARGV 2 '1' to repair  3 most members to look at  then tenants
-- Returns triples: invariant, tenant, '1' if repaired
even_when_full()
local pools = redis.call('SMEMBERS', pools_key())
local mixed = {paused_key(), delayed_key()}
for _, pool in ipairs(pools) do mixed[#mixed + 1] = suspects_key(pool) end
local size = 0
for _, key in ipairs(mixed) do size = size + redis.call('ZCARD', key) end
if size > tonumber(ARGV[3]) then return {} end

local counted = {}
for _, key in ipairs(mixed) do
  for _, ref in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local tenant = split(ref)
    counted[tenant] = (counted[tenant] or 0) + 1
  end
end
local found = {}
for i = 4, #ARGV do
  local tenant = ARGV[i]
  local queued = counted[tenant] or 0
  for _, pool in ipairs(pools) do queued = queued + redis.call('ZCARD', ready_key(pool, tenant)) end
  if tonumber(redis.call('GET', queued_key(tenant)) or '0') ~= queued then
    if ARGV[2] == '1' then redis.call('SET', queued_key(tenant), queued) end
    for _, value in ipairs({'wrong_quota', tenant, ARGV[2]}) do found[#found + 1] = value end
  end
end
return found
