-- Fourth part of the library: jobs that must run alone.
--
-- A job under which so many workers died is a suspect: its next worker runs nothing else, so that if that one dies, too,
-- the job was it, and no neighbour. Suspects wait apart from the lines, oldest first. They run on a worker that holds
-- nothing, when nothing is in line; or before the line, once the first of them has waited too long. For the latter one
-- worker at a time is set apart (draining): it is told to stand by, takes nothing while it drains, then runs the
-- suspect; it is free again when that run ends, or a lease after it was heard of last. A worker that ran a suspect
-- before the line owes the line a job (forced_by), and takes it before its next suspect of that kind.
-- draining holds the worker's name while it drains, then the ref of the suspect that it runs.

local function is_suspect(losses) return (tonumber(losses or '0') or 0) >= conf.max_losses - 1 end

local function add_suspect(pool, ref)
  redis.call('ZADD', suspects_key(pool), exact(next_order()), ref)
end

local function pop_suspect(pool) return redis.call('ZPOPMIN', suspects_key(pool))[1] end

local function count_suspects(pool) return redis.call('ZCARD', suspects_key(pool)) end

-- Whether this worker is to run the first suspect before the line: it waits too long, no other worker is set apart for
-- one, and this one owes the line nothing.
local function is_suspect_due(pool, worker, patience_ms)
  local waiting_since = tonumber(redis.call('ZRANGE', suspects_key(pool), 0, 0, 'WITHSCORES')[2])
  if not waiting_since or now - waiting_since < patience_ms then return false end
  local set_apart = redis.call('GET', draining_key(pool))
  if set_apart and set_apart ~= worker then return false end
  return not (has_line(pool) and redis.call('GET', forced_by_key(pool)) == worker)
end

local function set_worker_apart(pool, worker, lease_ms) redis.call('SET', draining_key(pool), worker, 'PX', lease_ms) end

-- A suspect starts on this worker: before the line (`is_forced`), or when nothing else was to be done.
local function suspect_starts(pool, worker, ref, is_forced, lease_ms)
  if is_forced then
    redis.call('SET', draining_key(pool), ref, 'PX', lease_ms)
    redis.call('SET', forced_by_key(pool), worker)
  elseif redis.call('GET', draining_key(pool)) == worker then
    redis.call('DEL', draining_key(pool))
  end
end

-- The worker runs a job from the line, which is all it may owe.
local function line_served(pool, worker)
  if redis.call('GET', forced_by_key(pool)) == worker then redis.call('DEL', forced_by_key(pool)) end
end

-- The owner of a running job beats. Its place apart is kept while the job is the suspect it was set apart for. Returns
-- whether the worker drains, so that a job which can go on from a snapshot should go elsewhere.
local function drains(pool, worker, ref, lease_ms)
  local set_apart = redis.call('GET', draining_key(pool))
  if set_apart == ref then redis.call('PEXPIRE', draining_key(pool), lease_ms) end
  return set_apart == worker
end

-- The job runs no more: if a worker was set apart for it, that is over.
local function suspect_ended(pool, ref)
  if redis.call('GET', draining_key(pool)) == ref then redis.call('DEL', draining_key(pool)) end
end
