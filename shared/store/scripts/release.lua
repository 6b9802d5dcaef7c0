-- A worker gives the job back, because it drains, the job is paused, or it was called away for a high one: no penalty,
-- same rank. Called away, it queues behind the high job, whatever its tenant's turn. With a delay, because a server it
-- needs is away, it waits as after an error, but none is counted.
--   dq:job:{ref} hash  back to queued      dq:ready, dq:turn, dq:bell  as at submit; dq:held when paused
--   dq:delayed zset  when it may run again, with a delay
-- ARGV 2 ref  3 attempt  4 delay ms  5 error JSON or '': why it was delayed, for the list of attempts
-- Returns 'queued', 'cancelled' or 'lost'
even_when_full()
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
if is_cancelling(ref) then
  close_attempt(ref, 'cancelled', nil)
  finish(ref, 'cancelled', nil)
  return 'cancelled'
end
local paused, yield, pool = unpack(redis.call('HMGET', job_key(ref), 'paused', 'yield', 'pool'))
local is_called_away = yield == ARGV[3] and paused ~= '1'
local first_tenant, first_id, first_vtime = first_in_line(pool)
close_attempt(ref, 'released', ARGV[5] ~= '' and ARGV[5] or nil)
if tonumber(ARGV[4]) > 0 and paused ~= '1' then
  postpone(ref, tonumber(ARGV[4]), 'released', nil)
  return 'queued'
end
requeue(ref, paused == '1' and 'paused' or is_called_away and 'yielded' or 'released')

if is_called_away and first_id and redis.call('HGET', job_key(first_tenant .. ':' .. first_id), 'priority') == 'high' then
  let_go_first(pool, (split(ref)), first_tenant, first_vtime)
end
return 'queued'
