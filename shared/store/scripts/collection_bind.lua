-- Before rows are written: the first ones settle which vectors a collection holds, and each metadata field's type and
-- column; later ones must agree.
--   dq:collection:{tenant}:{name} hash  fingerprint, width, fields
-- ARGV 2 tenant  3 name  4 id  5 fingerprint  6 width  7 fields JSON: {name: type}  8 fields of a type at most
-- Returns {'ok'}, {'gone'}, {'model'}, {'type', field, its type} or {'fields', field}
local key = collection_key(ARGV[2], ARGV[3])
local id, fingerprint, width, raw = unpack(redis.call('HMGET', key, 'id', 'fingerprint', 'width', 'fields'))
if id ~= ARGV[4] then return {'gone'} end
if fingerprint ~= '' and fingerprint ~= ARGV[5] then return {'model'} end
if width ~= '0' and width ~= ARGV[6] then return {'model'} end
local fields = cjson.decode(raw)
local used = {string = 0, number = 0}
local function sort_of(type) return type == 'string' and 'string' or 'number' end
for _, field in pairs(fields) do used[sort_of(field[1])] = used[sort_of(field[1])] + 1 end
for name, type in pairs(cjson.decode(ARGV[7])) do
  local known = fields[name]
  if known and known[1] ~= type then return {'type', name, known[1]} end
  if not known then
    local sort = sort_of(type)
    if used[sort] >= tonumber(ARGV[8]) then return {'fields', name} end
    fields[name] = {type, used[sort]}
    used[sort] = used[sort] + 1
  end
end
redis.call('HSET', key, 'fingerprint', ARGV[5], 'width', ARGV[6])
if next(fields) then redis.call('HSET', key, 'fields', cjson.encode(fields)) end
return {'ok'}
