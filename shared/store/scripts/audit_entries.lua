-- Members of a set that holds jobs: those without a record are dropped.
--   the zset named  read, orphans removed      dq:job:{ref} hash  looked for
-- ARGV 2 '1' to repair  3 the set's key  4 what makes a member a ref ('' or 'tenant:')  then members
-- Returns triples: invariant, ref, '1' if repaired
even_when_full()
local found = {}
for i = 5, #ARGV do
  local ref = ARGV[4] .. ARGV[i]
  if redis.call('EXISTS', job_key(ref)) == 0 and redis.call('ZSCORE', ARGV[3], ARGV[i]) then
    if ARGV[2] == '1' then redis.call('ZREM', ARGV[3], ARGV[i]) end
    for _, value in ipairs({'orphan_entry', ref, ARGV[2]}) do found[#found + 1] = value end
  end
end
return found
