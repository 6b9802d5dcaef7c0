-- A worker still holds these jobs: renew their leases and say what is to become of each. Where the job first in line
-- is a high one that waits too long, and this worker has no free slot, its youngest low job is called away: one that
-- has a snapshot to go on from, and that the high one outranks (so a low job that waited long enough is left alone).
-- While this worker empties itself for a suspect, every run that has a snapshot goes elsewhere; the others are waited for.
--   dq:leases zset  moved on      dq:job:{ref} hash  yield = the attempt called away; called_at on the high job
--   dq:emptying:{pool} string  read; kept while the suspect it names runs
-- ARGV 2 lease ms  3 '1' when no slot is free  4 ms a high job waits, 0: nothing is ever called away
--      then triples: ref, attempt, '1' when its kind can go on from a snapshot
-- Returns one of 'ok', 'cancel', 'yield', 'lost' per triple
even_when_full()
local lease_ms, patience_ms = tonumber(ARGV[2]), tonumber(ARGV[4])
local replies = {}
local youngest = nil  -- the running job that may be called away
local is_yielding = false

local function consider(ref, reply)
  local f = redis.call('HMGET', job_key(ref), 'priority', 'claimed_at', 'rank', 'pool')
  if f[1] ~= 'low' then return end
  local claimed_at = tonumber(f[2] or '') or 0
  if not youngest or claimed_at > youngest.claimed_at then
    youngest = {ref = ref, claimed_at = claimed_at, rank = tonumber(f[3] or '') or 0, pool = f[4], reply = reply}
  end
end

for i = 5, #ARGV, 3 do
  local ref = ARGV[i]
  local state, attempt, pool, worker, alone, snapshot = unpack(redis.call('HMGET', job_key(ref), 'state', 'attempt',
    'pool', 'worker', 'alone', 'snapshot'))
  if state ~= 'running' or attempt ~= ARGV[i + 1] then
    replies[#replies + 1] = 'lost'
  else
    redis.call('ZADD', leases_key(), now + lease_ms, ref)
    local signal = signal_for(ref)
    local is_draining = pool and drains(pool, worker, ref, lease_ms)
    local may_move = ARGV[i + 2] == '1' and snapshot and alone ~= '1'
    if signal == 'ok' and may_move and is_draining then signal = 'yield' end
    replies[#replies + 1] = signal
    is_yielding = is_yielding or signal == 'yield'
    if signal == 'ok' and may_move then consider(ref, #replies) end
  end
end

if ARGV[3] == '1' and patience_ms > 0 and youngest and youngest.pool and not is_yielding then
  local tenant, id = first_in_line(youngest.pool)
  local key = id and job_key(tenant .. ':' .. id)
  local f = key and redis.call('HMGET', key, 'priority', 'queued_at', 'rank', 'called_at')
  if f and f[1] == 'high' and now - (tonumber(f[2] or '') or now) >= patience_ms and (tonumber(f[3] or '') or 0) < youngest.rank
    and now - (tonumber(f[4] or '0') or 0) >= lease_ms then  -- one worker at a time makes room for it
    redis.call('HSET', key, 'called_at', now)
    redis.call('HSET', job_key(youngest.ref), 'yield', redis.call('HGET', job_key(youngest.ref), 'attempt'))
    count('all', 'preempted')
    replies[youngest.reply] = 'yield'
  end
end
return replies
