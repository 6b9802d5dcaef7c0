-- The caller lets a paused job go on. Held: back to the queue at its old rank. Running: the flag goes; a worker that has
-- heard of it already gives the job back into the queue.
--   dq:job:{ref} hash  paused      dq:held zset  loses it      dq:ready or dq:suspects  gets it
-- ARGV 2 ref
-- Returns 'missing', 'gone', 'final:<state>', 'queued' or 'running'
local ref = ARGV[2]
local key = job_key(ref)
local state, pool, paused = unpack(redis.call('HMGET', key, 'state', 'pool', 'paused'))
if not state then return why_absent(ref) end
if state ~= 'queued' and state ~= 'running' then return 'final:' .. state end
if paused == '1' then
  redis.call('HSET', key, 'paused', '')
  emit(ref, 'resumed', '{"state":"' .. state .. '"}')
  if state == 'queued' then
    dequeue(pool, ref)
    redis.call('HSET', key, 'queued_at', now)
    place(ref)
  end
end
return state
