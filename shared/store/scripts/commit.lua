-- The result, once: only from the attempt that owns the job. After an acknowledged cancel it ends cancelled,
-- and keeps the pictures that were finished. A job that follows from this one is accepted in the same step.
--   dq:job:{ref} hash  result, timings, final state        dq:pace:{pool} hash  average run time of the kind
-- ARGV 2 ref  3 attempt  4 'succeeded' or 'cancelled'  5 result JSON  6 timings JSON
--      7 the following job: '', or JSON as for submit, without deadline, retention and idempotency key
-- Returns the state reached, or 'lost'
even_when_full()
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
local key = job_key(ref)
local state = is_cancelling(ref) and 'cancelled' or ARGV[4]
redis.call('HSET', key, 'result', ARGV[5], 'timings', ARGV[6])
close_attempt(ref, state, nil)
finish(ref, state, nil)
if state == 'succeeded' then
  if ARGV[7] ~= '' then
    local job = cjson.decode(ARGV[7])
    accept((split(ref)) .. ':' .. job.id, job)
  end
  local pool, kind, claimed_at = unpack(redis.call('HMGET', key, 'pool', 'kind', 'claimed_at'))
  if pool and kind then
    local took_s = (now - (tonumber(claimed_at or '') or now)) / 1000
    local mean_s = tonumber(redis.call('HGET', pace_key(pool), kind) or '') or took_s
    redis.call('HSET', pace_key(pool), kind, string.format('%.4f', mean_s + 0.1 * (took_s - mean_s)))
  end
end
return state
