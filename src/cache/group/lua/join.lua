-- run id until act lease marks (mark slots slot…)*
local run, id, till, act, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if tonumber(till) <= now then
  return say('late')
end
if get('run') ~= run or is_over() then
  -- A full Redis lets a script that began with this go on.
  if get('act') then
    delete_all()
  end
  set('act', act)
  set('run', run)
  set('lease', lease)
elseif get('lease') ~= lease then
  -- Each waits as long as it believes others to live.
  return { 'lease', text(now), get('lease') or '0' }
end
-- A lease that runs is never lengthened, for this comes without a census.
if not get('m:' .. id) then
  set('m:' .. id, till)
  local ids = members()
  ids[#ids + 1] = id
  set_members(ids)
end
local seq = next_seq()
set('a:' .. id, text(seq))
set('j:' .. id, text(seq))
local at = 7
for _ = 1, tonumber(ARGV[6]) do
  local mark, slots = ARGV[at], tonumber(ARGV[at + 1])
  for slot = at + 2, at + 1 + slots do
    add_mark(ARGV[slot], mark, seq)
  end
  at = at + 2 + slots
end
log(seq)
local reply = { 'ok', text(now), get('act'), flag(is_open()), text(seq) }
end_at(earliest())
return reply
