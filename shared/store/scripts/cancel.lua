-- Queued: cancelled at once. Running: flagged, and its worker nudged; commits after this end cancelled.
--   dq:job:{ref} hash      dq:ready, dq:suspects, dq:held, dq:delayed zsets  lose it      dq:nudge:{worker} channel
-- ARGV 2 ref
-- Returns 'missing', 'gone', 'final:<state>', 'cancelled' or 'running'
even_when_full()
local ref = ARGV[2]
local key = job_key(ref)
local state, pool, worker = unpack(redis.call('HMGET', key, 'state', 'pool', 'worker'))
if not state then return why_absent(ref) end
if state == 'queued' then
  dequeue(pool, ref)
  redis.call('HSET', key, 'cancel', '1')
  finish(ref, 'cancelled', nil)
  return 'cancelled'
end
if state == 'running' then
  if redis.call('HSET', key, 'cancel', '1') == 1 then emit(ref, 'cancelling', '{"state":"running"}') end
  redis.call('PUBLISH', control_key(worker), ref)
  return 'running'
end
return 'final:' .. state
