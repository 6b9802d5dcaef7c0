-- Queued: held at once, until it is resumed. Running: flagged, and its worker nudged; it gives the job back into the hold.
-- A held job counts in the quota, keeps its deadline and can be cancelled.
--   dq:job:{ref} hash  paused      dq:ready, dq:suspects, dq:delayed zsets  lose it      dq:held zset  gets it
-- ARGV 2 ref
-- Returns 'missing', 'gone', 'final:<state>', 'queued' or 'running'
local ref = ARGV[2]
local key = job_key(ref)
local state, pool, worker, paused = unpack(redis.call('HMGET', key, 'state', 'pool', 'worker', 'paused'))
if not state then return why_absent(ref) end
if state ~= 'queued' and state ~= 'running' then return 'final:' .. state end
if paused ~= '1' then
  redis.call('HSET', key, 'paused', '1')
  emit(ref, 'paused', '{"state":"' .. state .. '"}')
  if state == 'queued' then
    dequeue(pool, ref)
    redis.call('HSET', key, 'due_at', '')
    place(ref)
  end
end
if state == 'running' then redis.call('PUBLISH', control_key(worker), 'pause ' .. ref) end
return state
