-- A worker still holds these jobs: renew their leases and say what became of each.
--   dq:leases zset  moved on          dq:job:{ref} hash  state, attempt and cancel are read
-- ARGV 2 lease ms  then pairs: ref, attempt
-- Returns one of 'ok', 'cancel', 'lost' per pair
local replies = {}
for i = 3, #ARGV, 2 do
  local ref = ARGV[i]
  local state, attempt, cancel = unpack(redis.call('HMGET', job_key(ref), 'state', 'attempt', 'cancel'))
  if state ~= 'running' or attempt ~= ARGV[i + 1] then
    replies[#replies + 1] = 'lost'
  else
    redis.call('ZADD', 'dq:leases', now + tonumber(ARGV[2]), ref)
    replies[#replies + 1] = cancel == '1' and 'cancel' or 'ok'
  end
end
return replies
