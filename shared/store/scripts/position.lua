-- How many jobs of the pool will be claimed before this one if none came or went: exact, by merging the tenants'
-- turn sequences (each tenant's k-th ready job is due at turn + k * stride; ties go to the lesser name). Suspects run
-- when a worker is idle: for one of them it is the suspects before it, and they are no part of the others' position.
-- ARGV 2 ref  3 pool
-- Returns nil when the job is not ready, else {position, jobs ready in the pool}
local tenant, id = split(ARGV[2])
local pool = ARGV[3]
local index = redis.call('ZRANK', 'dq:ready:' .. pool .. ':' .. tenant, id)
local suspects = 'dq:suspects:' .. pool
local rank = not index and redis.call('ZRANK', suspects, ARGV[2])
if not index and not rank then return nil end
local ready = redis.call('ZCARD', suspects)
local vtimes = redis.call('ZRANGE', 'dq:turn:' .. pool, 0, -1, 'WITHSCORES')
for i = 1, #vtimes, 2 do ready = ready + redis.call('ZCARD', 'dq:ready:' .. pool .. ':' .. vtimes[i]) end
if rank then return {rank, ready} end

local due = tonumber(redis.call('ZSCORE', 'dq:turn:' .. pool, tenant)) + index * stride_of(tenant)
local ahead = index
for i = 1, #vtimes, 2 do
  local other = vtimes[i]
  if other ~= tenant then
    local lead = (due - tonumber(vtimes[i + 1])) / stride_of(other)
    local before = other < tenant and math.floor(lead) + 1 or math.ceil(lead)
    local size = redis.call('ZCARD', 'dq:ready:' .. pool .. ':' .. other)
    ahead = ahead + math.max(0, math.min(size, before))
  end
end
return {ahead, ready}
