-- Each of these jobs must be where its state says, once, and nowhere else. What is provably safe is put right here, in
-- the same step in which it is found; the rest is only reported.
--   dq:job:{ref} hash  read      all zsets that hold jobs  read; strays removed, missing ones added
-- ARGV 2 '1' to repair  3 lease ms  then refs
-- Returns triples: invariant, ref (`pool:tenant` for a turn), '1' if repaired
even_when_full()
local may_repair, lease_ms = ARGV[2] == '1', tonumber(ARGV[3])
local found = {}
local turnless = {}  -- tenants said already

local function report(invariant, subject, repair)
  if may_repair and repair then repair() end
  for _, value in ipairs({invariant, subject, may_repair and repair and '1' or ''}) do found[#found + 1] = value end
end

-- The sets of a queued job, of a running one, of an ended one: by name, the key and the member it has there.
local function sets_of(ref, pool)
  local tenant, id = split(ref)
  return {
    line = {ready_key(pool, tenant), id}, suspects = {suspects_key(pool), ref},
    held = {paused_key(), ref}, delayed = {delayed_key(), ref}, leases = {leases_key(), ref}, expiry = {expiry_key(), ref},
  }
end

local FINAL_HOME = {expiry = true}
local HOMES = {queued = {line = true, suspects = true, held = true, delayed = true}, running = {leases = true},
  succeeded = FINAL_HOME, failed = FINAL_HOME, cancelled = FINAL_HOME, expired = FINAL_HOME}

-- Drop the job from sets that its state does not allow; how many of the others hold it, and which.
local function sort_out(ref, state, pool)
  local homes = HOMES[state]
  local count_home, home = 0, nil
  for name, at in pairs(sets_of(ref, pool)) do
    if redis.call('ZSCORE', at[1], at[2]) then
      if homes[name] then
        count_home, home = count_home + 1, name
      else
        report('stray_entry', ref, function()
          redis.call('ZREM', at[1], at[2])
          if name == 'line' then retire_vtime(pool, (split(ref))) end
        end)
      end
    end
  end
  return count_home, home
end

local function check_queued(ref, key, f, places, home)
  local tenant = split(ref)
  if places == 0 then
    report('queued_nowhere', ref, function()
      redis.call('DECR', queued_key(tenant))  -- place counts it again
      place(ref)
    end)
  elseif places > 1 then
    report('several_places', ref)
  elseif (home == 'held') ~= (f.paused == '1') then
    report('wrong_place', ref)
  elseif home == 'line' and not redis.call('ZSCORE', vtime_key(f.pool), tenant) then
    local subject = f.pool .. ':' .. tenant
    if not turnless[subject] then
      report('missing_turn', subject, function()
        redis.call('ZADD', vtime_key(f.pool), redis.call('GET', vclock_key(f.pool)) or '0', tenant)
      end)
    end
    turnless[subject] = true
  end
  if f.deadline_at and f.deadline_at ~= '' and not redis.call('ZSCORE', deadlines_key(), ref) then
    report('missing_deadline', ref, function() redis.call('ZADD', deadlines_key(), f.deadline_at, ref) end)
  end
end

local function check(ref)
  local key = job_key(ref)
  local f = {}
  local names = {'state', 'pool', 'finished_at', 'expires_at', 'deadline_at', 'paused'}
  for n, value in ipairs(redis.call('HMGET', key, unpack(names))) do f[names[n]] = value end
  if HOMES[f.state] and f.pool then  -- else a newer version's, which knows where it belongs
    local places, home = sort_out(ref, f.state, f.pool)
    if f.state ~= 'queued' and redis.call('ZSCORE', deadlines_key(), ref) then
      report('stray_entry', ref, function() redis.call('ZREM', deadlines_key(), ref) end)
    end
    local is_final = f.state ~= 'queued' and f.state ~= 'running'
    if is_final ~= (f.finished_at and f.finished_at ~= '' or false) then report('finished_at', ref) end
    if f.state == 'queued' then
      check_queued(ref, key, f, places, home)
    elseif f.state == 'running' and places == 0 then
      report('missing_lease', ref, function() redis.call('ZADD', leases_key(), now + lease_ms, ref) end)
    elseif is_final and places == 0 then
      report('missing_expiry', ref, function()
        redis.call('ZADD', expiry_key(), f.expires_at and f.expires_at ~= '' and f.expires_at or now + conf.result_ttl_ms, ref)
      end)
    end
  end
end

for i = 4, #ARGV do
  if may_repair then safely(ARGV[i], check) else pcall(check, ARGV[i]) end
end
return found
