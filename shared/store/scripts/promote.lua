-- Retries whose wait is over become ready again, and missing doorbells are rung: as many as jobs are ready.
--   dq:delayed zset  scanned from the past      dq:ready, dq:suspects      dq:bell:{pool} list  topped up
-- ARGV 2 limit
-- Returns {promoted, rung}
even_when_full()
local promoted, rung = 0, 0
local function make_ready(ref)
  local key = job_key(ref)
  redis.call('ZREM', delayed_key(), ref)
  if redis.call('HGET', key, 'state') == 'queued' then
    redis.call('DECR', queued_key((split(ref))))  -- place counts it again
    redis.call('HSET', key, 'due_at', '')
    place(ref)
    promoted = promoted + 1
  end
end

for _, ref in ipairs(redis.call('ZRANGEBYSCORE', delayed_key(), '-inf', now, 'LIMIT', 0, ARGV[2])) do
  safely(ref, make_ready)
end
for _, pool in ipairs(redis.call('SMEMBERS', pools_key())) do
  local ready = count_suspects(pool) + count_in_line(pool)
  local missing = math.min(ready - redis.call('LLEN', bell_key(pool)), tonumber(ARGV[2]))
  for _ = 1, missing do
    ring(pool)
    rung = rung + 1
  end
end
return {promoted, rung}
