-- Accept a job: record, ready entry and doorbell in one step, or nothing.
--   dq:job:{ref} hash  written        dq:ready, dq:turn  the job's place       dq:bell  one doorbell
--   dq:idem:{tenant}:{key} string     dq:jobs:{tenant} zset, dq:deadlines zset
-- ARGV 2 tenant  3 id  4 pool  5 kind  6 spec  7 priority  8 rank offset ms  9 deadline ms from now or ''
--      10 metadata  11 retry_of or ''  12 idempotency key or ''  13 fingerprint  14 retention ms after its end or ''
--      15 the id of the request that brought it or ''
-- Returns {'created'|'duplicate'|'conflict'|'full', id}
local tenant, id, pool, kind = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ref = tenant .. ':' .. id
local idem = 'dq:idem:' .. tenant .. ':' .. ARGV[12]

if ARGV[12] ~= '' then
  local held = redis.call('GET', idem)
  if held then
    local said, first = split(held)
    local same = said == ARGV[13]
    local is_known = redis.call('EXISTS', job_key(tenant .. ':' .. first)) == 1
      or redis.call('ZSCORE', 'dq:jobs:' .. tenant, first)
    if is_known then return {same and 'duplicate' or 'conflict', first} end  -- else its short retention is over
  end
end
local known = redis.call('HGET', job_key(ref), 'fingerprint')
if known then return {known == ARGV[13] and 'duplicate' or 'conflict', id} end
if redis.call('ZSCORE', 'dq:jobs:' .. tenant, id) then return {'conflict', id} end
-- A tenth more for jobs of a short retention: a queue full of pictures does not refuse searches.
local most = conf.max_queued * (ARGV[14] ~= '' and 1.1 or 1)
if tonumber(redis.call('GET', 'dq:queued:' .. tenant) or '0') >= most then return {'full', id} end

accept(ref, {pool = pool, kind = kind, spec = ARGV[6], priority = ARGV[7], offset_ms = ARGV[8], deadline_ms = ARGV[9],
  metadata = ARGV[10], retry_of = ARGV[11], fingerprint = ARGV[13], ttl_ms = ARGV[14],
  request_id = ARGV[15]})
if ARGV[12] ~= '' then redis.call('SET', idem, ARGV[13] .. ':' .. id, 'PX', conf.idempotency_ttl_ms) end
return {'created', id}
