-- The owner has stored what its run reached: the next attempt's claim carries this note. Renews nothing. Once the run is
-- further than when it last lost a worker, its losses are forgotten: it gets on, so a long run outlives many workers.
--   dq:job:{ref} hash  snapshot; losses, against lost_step
-- ARGV 2 ref  3 attempt  4 note JSON {key, step, bytes, sha256}
-- Returns 'ok' or 'lost'
even_when_full()
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
redis.call('HSET', job_key(ref), 'snapshot', ARGV[4])
local losses, lost_step = unpack(redis.call('HMGET', job_key(ref), 'losses', 'lost_step'))
if losses ~= '0' and cjson.decode(ARGV[4]).step > (tonumber(lost_step or '0') or 0) then
  redis.call('HSET', job_key(ref), 'losses', 0)
end
return 'ok'
