-- run timeline started id until act lease marks (mark slots slot…)*
local run, id, till, act, lease = ARGV[1], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local timeline, started = tonumber(ARGV[2]), tonumber(ARGV[3])
if tonumber(till) <= now then
  return say('late')
end
-- Of two PostgreSQLs of one cluster that live the later is the one written in, and who still speaks
-- of the other would hit on what is not so any more.
local past = 0
if get('act') and not is_over() then
  local later = number('timeline') - timeline
  if later == 0 then
    later = number('started') - started
  end
  if later > 0 then
    return say('passed')
  elseif later < 0 then
    past = now + math.min(math.max(number('end'), number('past')) - now, number('lease'))
    delete_all()
  end
end
if get('run') ~= run or is_over() then
  -- A full Redis lets a script that began with this go on.
  if get('act') then
    delete_all()
  end
  set('act', act)
  set('run', run)
  set('timeline', ARGV[2])
  set('started', ARGV[3])
  set('lease', lease)
  if past > now then
    set('past', text(past))
  end
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
local at = 9
for _ = 1, tonumber(ARGV[8]) do
  local mark, slots = ARGV[at], tonumber(ARGV[at + 1])
  for slot = at + 2, at + 1 + slots do
    add_mark(ARGV[slot], mark, seq)
  end
  at = at + 2 + slots
end
log(seq)
local reply = { 'ok', text(now), get('act'), flag(is_open()), text(seq), text(math.max(number('past') - now, 0)) }
end_at(earliest())
return reply
