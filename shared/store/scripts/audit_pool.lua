-- A pool's turns belong to tenants with jobs in line, and its doorbells are enough for what waits: some may be on their
-- way through workers, more may not be missing. A suspect's bell may be answered long before it runs: it is not counted.
--   dq:turn:{pool} zset  empty turns removed      dq:bell:{pool} list  topped up
-- ARGV 2 '1' to repair  3 pool  4 doorbells that may be in workers' hands
-- Returns triples: invariant, subject, '1' if repaired
even_when_full()
local pool = ARGV[3]
local found = {}
local ready = 0
for _, tenant in ipairs(redis.call('ZRANGE', vtime_key(pool), 0, -1)) do
  local size = redis.call('ZCARD', ready_key(pool, tenant))
  ready = ready + size
  if size == 0 then
    if ARGV[2] == '1' then retire_vtime(pool, tenant) end
    for _, value in ipairs({'empty_turn', pool .. ':' .. tenant, ARGV[2]}) do found[#found + 1] = value end
  end
end
local missing = ready - redis.call('LLEN', bell_key(pool))
if missing > tonumber(ARGV[4]) then
  if ARGV[2] == '1' then
    for _ = 1, math.min(missing, 1000) do ring(pool) end
  end
  for _, value in ipairs({'missing_doorbells', pool, ARGV[2]}) do found[#found + 1] = value end
end
return found
