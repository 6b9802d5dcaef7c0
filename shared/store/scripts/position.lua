-- How many jobs of the pool will be claimed before this one if none came or went: exact, by the rule of the lines
-- (lib/fairness.lua). Suspects run when a worker is idle: for one of them it is the suspects before it, and they are no
-- part of the others' position.
-- ARGV 2 ref  3 pool
-- Returns nil when the job is not ready, else {position, jobs ready in the pool}
local ref, pool = ARGV[2], ARGV[3]
local tenant, id = split(ref)
local index = redis.call('ZRANK', ready_key(pool, tenant), id)
local rank = not index and redis.call('ZRANK', suspects_key(pool), ref)
if not index and not rank then return nil end
return {index and ahead_in_line(pool, tenant, index) or rank, count_suspects(pool) + count_in_line(pool)}
