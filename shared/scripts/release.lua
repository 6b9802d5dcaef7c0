-- A draining worker gives the job back: no penalty, same place in the queue.
--   dq:job:{ref} hash  back to queued      dq:ready, dq:turn, dq:bell  as at submit
-- ARGV 2 ref  3 attempt
-- Returns 'queued', 'cancelled' or 'lost'
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
if is_cancelling(ref) then
  close_attempt(ref, 'cancelled', nil)
  finish(ref, 'cancelled', nil)
  return 'cancelled'
end
close_attempt(ref, 'released', nil)
requeue(ref, 'released')
return 'queued'
