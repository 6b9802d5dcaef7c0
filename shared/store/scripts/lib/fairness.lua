-- Third part of the library: whose turn it is. Start-time fair queueing between the tenants of a pool.
--
-- A tenant's jobs wait in its line (ready), lowest rank first. Each tenant with a line has a turn, a virtual time
-- (vtime); the lowest turn is next, and ties go to the lesser name. Each job moves its tenant's turn on by
-- STRIDE / weight, so a tenant of twice the weight has twice as many turns. The pool's virtual clock (vclock) is the
-- turn taken last. A tenant whose line is empty has no turn; if it had one still to wait for, that is kept (vtags). So
-- a tenant that comes back gets no credit for having been away and no debt beyond what it used.
local STRIDE = 5040  -- virtual time one job costs a tenant of weight 1; divisible by every weight up to 10

local function stride_of(tenant)
  local weight = tonumber(redis.call('HGET', weight_key(), tenant) or '1') or 1
  return math.floor(STRIDE / math.min(math.max(weight, 1), 10))
end

local function vclock_of(pool) return tonumber(redis.call('GET', vclock_key(pool)) or '0') end

local function vtag_of(pool, tenant) return tonumber(redis.call('HGET', vtags_key(pool), tenant) or '0') end

-- A place in the order of things, or a rank, as a text that loses nothing of its fraction.
local function exact(order) return string.format('%.10f', order) end

-- The order in which things came: milliseconds, and within one of them a fraction that grows by 1/1024, so that ranks
-- are exact in a double until the year 2248. A clock set back by up to a second changes no order; beyond that, the
-- clock is believed, since a rank far ahead of it would starve what comes later.
local function next_order()
  local last = tonumber(redis.call('GET', order_key()) or '0') or 0
  local order = now
  if last >= now and last < now + 1000 then order = last + 1 / 1024 end
  redis.call('SET', order_key(), exact(order))
  return order
end

-- Into its tenant's line.
local function enqueue(pool, ref, rank)
  local tenant, id = split(ref)
  redis.call('ZADD', ready_key(pool, tenant), rank, id)
  redis.call('INCR', queued_key(tenant))
  if not redis.call('ZSCORE', vtime_key(pool), tenant) then
    local turn = math.max(vclock_of(pool), vtag_of(pool, tenant))
    redis.call('ZADD', vtime_key(pool), string.format('%.0f', turn), tenant)
    redis.call('HDEL', vtags_key(pool), tenant)
  end
end

-- When a tenant has nothing ready, its turn leaves the table; the time it was due at is kept while it matters.
local function retire_vtime(pool, tenant)
  if redis.call('ZCARD', ready_key(pool, tenant)) == 0 then
    local tag = redis.call('ZSCORE', vtime_key(pool), tenant)
    redis.call('ZREM', vtime_key(pool), tenant)
    if tag and tonumber(tag) > vclock_of(pool) then redis.call('HSET', vtags_key(pool), tenant, tag) end
  end
end

local function has_line(pool) return redis.call('ZCARD', vtime_key(pool)) > 0 end

-- The tenant whose turn it is, if any, and the time of that turn, as text.
local function next_turn(pool)
  local head = redis.call('ZRANGE', vtime_key(pool), 0, 0, 'WITHSCORES')
  return head[1], head[2]
end

-- The job that a claim would take from the line now, if any: its tenant, id, and the time of that tenant's turn.
local function first_in_line(pool)
  local tenant, turn = next_turn(pool)
  if not tenant then return nil end
  return tenant, redis.call('ZRANGE', ready_key(pool, tenant), 0, 0)[1], tonumber(turn)
end

-- The tenant's first job has left the line to run: the clock stands at this turn, and the tenant's next one is later.
local function take_turn(pool, tenant, turn)
  redis.call('SET', vclock_key(pool), turn)
  redis.call('ZINCRBY', vtime_key(pool), stride_of(tenant), tenant)
  retire_vtime(pool, tenant)
end

-- What it costs a tenant when its job runs out of turn: the same.
local function charge(pool, tenant)
  if redis.call('ZSCORE', vtime_key(pool), tenant) then
    redis.call('ZINCRBY', vtime_key(pool), stride_of(tenant), tenant)
    return
  end
  local turn = math.max(vclock_of(pool), vtag_of(pool, tenant))
  redis.call('HSET', vtags_key(pool), tenant, string.format('%.0f', turn + stride_of(tenant)))
end

-- The tenant's turn is after that of another one, `first`.
local function let_go_first(pool, tenant, first, first_turn)
  local turn = tonumber(redis.call('ZSCORE', vtime_key(pool), tenant) or first_turn + 1)
  if turn < first_turn or (turn == first_turn and tenant < first) then
    redis.call('ZADD', vtime_key(pool), string.format('%.0f', first_turn + 1), tenant)
  end
end

-- Jobs in all lines of a pool.
local function count_in_line(pool)
  local total = 0
  for _, tenant in ipairs(redis.call('ZRANGE', vtime_key(pool), 0, -1)) do
    total = total + redis.call('ZCARD', ready_key(pool, tenant))
  end
  return total
end

-- How many jobs are claimed before the tenant's job at `index` (0 is its first) of its line: each tenant's k-th job is
-- due at its turn + k * stride, and the lines are merged by that.
local function ahead_in_line(pool, tenant, index)
  local due = tonumber(redis.call('ZSCORE', vtime_key(pool), tenant)) + index * stride_of(tenant)
  local ahead = index
  local turns = redis.call('ZRANGE', vtime_key(pool), 0, -1, 'WITHSCORES')
  for i = 1, #turns, 2 do
    local other = turns[i]
    if other ~= tenant then
      local lead = (due - tonumber(turns[i + 1])) / stride_of(other)
      local before = other < tenant and math.floor(lead) + 1 or math.ceil(lead)
      ahead = ahead + math.max(0, math.min(redis.call('ZCARD', ready_key(pool, other)), before))
    end
  end
  return ahead
end
