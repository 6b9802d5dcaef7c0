-- First part of the library that is put in front of every script: the constants, and every Redis key. The same builders
-- and the table of keys with their types are in shared/store/keys.py; a test holds both together.
-- ARGV[1] is always the constants (JSON, see shared/store/lua.py), the rest is the script's own. A ref is "tenant:id".
local conf = cjson.decode(ARGV[1])
local PREFIX = conf.prefix

local function queue_name(pool) return 'bell:' .. pool end

-- One job.
local function job_key(ref) return PREFIX .. 'job:' .. ref end
local function events_key(ref) return PREFIX .. 'events:' .. ref end

-- Where jobs wait, in one pool.
local function ready_key(pool, tenant) return PREFIX .. 'ready:' .. pool .. ':' .. tenant end
local function suspects_key(pool) return PREFIX .. 'suspects:' .. pool end
local function draining_key(pool) return PREFIX .. 'emptying:' .. pool end
local function forced_by_key(pool) return PREFIX .. 'forced:' .. pool end
local function vtime_key(pool) return PREFIX .. 'turn:' .. pool end
local function vclock_key(pool) return PREFIX .. 'clock:' .. pool end
local function vtags_key(pool) return PREFIX .. 'tags:' .. pool end
local function pace_key(pool) return PREFIX .. 'pace:' .. pool end
local function bell_key(pool) return PREFIX .. queue_name(pool) end

-- One tenant.
local function jobs_key(tenant) return PREFIX .. 'jobs:' .. tenant end
local function queued_key(tenant) return PREFIX .. 'queued:' .. tenant end
local function idem_key(tenant, key) return PREFIX .. 'idem:' .. tenant .. ':' .. key end
local function collection_key(tenant, name) return PREFIX .. 'collection:' .. tenant .. ':' .. name end
local function collections_key(tenant) return PREFIX .. 'collections:' .. tenant end
local function key_key(kid) return PREFIX .. 'key:' .. kid end

-- One worker.
local function worker_key(name) return PREFIX .. 'worker:' .. name end
local function control_key(worker) return PREFIX .. 'nudge:' .. worker end

-- One of each.
local function leases_key() return PREFIX .. 'leases' end
local function delayed_key() return PREFIX .. 'delayed' end
local function paused_key() return PREFIX .. 'held' end
local function deadlines_key() return PREFIX .. 'deadlines' end
local function expiry_key() return PREFIX .. 'expiry' end
local function pools_key() return PREFIX .. 'pools' end
local function workers_key() return PREFIX .. 'workers' end
local function weight_key() return PREFIX .. 'weight' end
local function counts_key() return PREFIX .. 'counts' end
local function order_key() return PREFIX .. 'order' end
local function bells_key() return PREFIX .. 'bells' end
local function sweep_key() return PREFIX .. 'sweep' end
local function auditor_key() return PREFIX .. 'auditor' end
local function uncompacted_key() return PREFIX .. 'uncompacted' end
local function dropped_key() return PREFIX .. 'dropped' end
local function nothing_key() return PREFIX .. 'nothing' end
