-- What every script begins with. Times are milliseconds of this Redis's clock. The fields of K:
--   act, run   the name of its life, the process it was formed in
--   timeline, started   of the PostgreSQL that it is about
--   past       until when members of one of before may hit
--   lease      how long a member is believed to live
--   open       equals act once K may be believed
--   since      when its first good census was
--   seq        count of changes of slots and members
--   ids, end   the members, and the end of the earliest of their leases, with which K ends
--   m:<id>, a:<id>, k:<id>, g:<id>   of a member: the end of its lease, the seq of its last JOIN
--              or BEGIN, up to which seq it knows the changes, until when it may hit unasked
--   j:<id>     of a member: the seq of its last JOIN
--   s:<slot>   generation, seq of its last change, marks, each after one space
--   l:<n>      the change whose seq is n modulo LOG: seq and slots; not there if it had no slots
local K = KEYS[1]
local LOG = 64
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number)
  return string.format('%.0f', number)
end

-- Fields as they were read, false for one that is not there, or as they will be written: each call
-- of Redis costs more than all that is done here between two of them.
local known, changed = {}, {}

-- Lua takes so many arguments at most.
local PART = 1000

local function read(fields)
  for first = 1, #fields, PART do
    local last = math.min(first + PART - 1, #fields)
    for at, value in ipairs(redis.call('HMGET', K, unpack(fields, first, last))) do
      known[fields[first + at - 1]] = value
    end
  end
end

local function get(field)
  if known[field] == nil then
    known[field] = redis.call('HGET', K, field)
  end
  return known[field]
end

local function number(field)
  return tonumber(get(field) or 0)
end

local function set(field, value)
  known[field] = value
  changed[#changed + 1] = field
  changed[#changed + 1] = value
end

-- To be called before K is looked at as a whole, and at the end.
local function save()
  for first = 1, #changed, PART do
    redis.call('HSET', K, unpack(changed, first, math.min(first + PART - 1, #changed)))
  end
  changed = {}
end

local function delete(...)
  save()
  redis.call('HDEL', K, ...)
  for _, field in ipairs({ ... }) do
    known[field] = false
  end
end

local function delete_all()
  redis.call('DEL', K)
  known, changed = {}, {}
end

-- Redis may be late to remove a key, and reads its clock at another moment than we do.
local function is_over()
  return number('end') <= now
end

local function is_of(act)
  return get('act') == act and not is_over()
end

local function is_open()
  return get('open') == get('act')
end

local function flag(value)
  return value and '1' or '0'
end

local function next_seq()
  local seq = number('seq') + 1
  set('seq', text(seq))
  return seq
end

local function members()
  local ids = {}
  for id in string.gmatch(get('ids') or '', '%d+') do
    ids[#ids + 1] = id
  end
  return ids
end

local function set_members(ids)
  set('ids', table.concat(ids, ' '))
end

local function remove(id)
  delete('m:' .. id, 'a:' .. id, 'k:' .. id, 'g:' .. id, 'j:' .. id)
  local left = {}
  for _, other in ipairs(members()) do
    if other ~= id then
      left[#left + 1] = other
    end
  end
  set_members(left)
end

-- The end of the earliest lease, nil if nobody is left.
local function earliest()
  local ends
  for _, id in ipairs(members()) do
    ends = math.min(ends or math.huge, number('m:' .. id))
  end
  return ends
end

-- The last that a script does to K: an end that has come meanwhile removes it at once, and what
-- were written then would stay for ever.
local function end_at(ends)
  if not ends then
    delete_all()
    return
  end
  set('end', text(ends))
  save()
  redis.call('PEXPIREAT', K, text(ends))
end

-- What nearly every script looks at, some of its own, and the slots named from there on, in one go.
local function read_all(own, first)
  local fields = { 'act', 'end', 'open', 'seq', 'ids', unpack(own) }
  for at = first, #ARGV do
    fields[#fields + 1] = 's:' .. ARGV[at]
  end
  read(fields)
end

local function get_slot(name)
  return get('s:' .. name) or '0 0'
end

-- Generation and marks, the latter with a space in front of each.
local function read_slot(name)
  local generation, _, marks = string.match(get_slot(name), '^(%d+) (%d+)(.*)$')
  return tonumber(generation), marks
end

-- The slots that this script changed, which have its seq.
local touched = ''

local function write_slot(name, generation, seq, marks)
  set('s:' .. name, text(generation) .. ' ' .. text(seq) .. marks)
  touched = touched .. ' ' .. name
end

local function log(seq)
  if touched ~= '' then
    set('l:' .. text(seq % LOG), text(seq) .. touched)
    touched = ''
  end
end

-- A mark is added once, and a slot that has it is not changed.
local function add_mark(name, mark, seq)
  local generation, marks = read_slot(name)
  if not string.find(marks .. ' ', ' ' .. mark .. ' ', 1, true) then
    write_slot(name, generation, seq, marks .. ' ' .. mark)
  end
end

-- The members that may answer from what they knew before `seq`, and for how long still: while
-- they hit unasked, and all until their lease ends if they have to judge by another catalogue.
local function append_waits(reply, own, seq, all)
  local ids, fields = members(), {}
  for _, id in ipairs(ids) do
    if id ~= own then
      fields[#fields + 1] = 'k:' .. id
      fields[#fields + 1] = 'g:' .. id
      fields[#fields + 1] = 'm:' .. id
    end
  end
  read(fields)
  for _, id in ipairs(ids) do
    if id ~= own and number('k:' .. id) < seq then
      local till = number('g:' .. id)
      if all then
        till = math.max(till, number('m:' .. id))
      end
      if till > now then
        reply[#reply + 1] = id
        reply[#reply + 1] = text(till - now)
      end
    end
  end
  return reply
end

local function append_slots(reply, first)
  for at = first, #ARGV do
    reply[#reply + 1] = ARGV[at]
    reply[#reply + 1] = get_slot(ARGV[at])
  end
  return reply
end

local function append_changes(reply, applied)
  local fields = redis.call('HGETALL', K)
  for field = 1, #fields, 2 do
    local name = string.match(fields[field], '^s:(.+)$')
    if name and tonumber(string.match(fields[field + 1], ' (%d+)')) > applied then
      reply[#reply + 1] = name
      reply[#reply + 1] = fields[field + 1]
    end
  end
end

-- The same from the log, without a look at all of K.
local function append_logged(reply, applied, seq)
  local fields, told = {}, {}
  for change = applied + 1, seq do
    fields[#fields + 1] = 'l:' .. text(change % LOG)
  end
  for at, line in ipairs(redis.call('HMGET', K, unpack(fields))) do
    local change, names = string.match(line or '', '^(%d+)(.*)$')
    if tonumber(change) == applied + at then
      for name in string.gmatch(names, '%S+') do
        if not told[name] then
          told[name] = true
          reply[#reply + 1] = name
          reply[#reply + 1] = get_slot(name)
        end
      end
    end
  end
end

-- What changed after `applied`, up to `seq`.
local function append_news(reply, applied, seq)
  save()
  if seq > applied + LOG then
    append_changes(reply, applied)
  elseif seq > applied then
    append_logged(reply, applied, seq)
  end
  return reply
end

local function say(word)
  return { word, text(now) }
end
