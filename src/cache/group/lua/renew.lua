-- act id until applied lease local seen id… gone_seq gone id…
local act, id, till, applied = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local lease, wants_grant = tonumber(ARGV[5]), ARGV[6] == '1'
read_all({ 'm:' .. id, 'k:' .. id, 'g:' .. id, 'since', 'lease', 'past' }, #ARGV + 1)
if not is_of(act) or not get('m:' .. id) then
  return say('lost')
end
if tonumber(till) <= now then
  return say('late')
end
-- The clock was set back, and all leases are longer than anybody waits for them.
if number('end') > now + number('lease') then
  delete_all()
  return say('lost')
end
-- Slots are never taken out of K. Past so many one look at all of them would hold up everybody, so
-- it begins anew.
if redis.call('HLEN', K) > 16384 then
  delete_all()
  return say('lost')
end
local at = 8
for _ = 1, tonumber(ARGV[7]) do
  if not get('m:' .. ARGV[at]) then
    return { 'census', text(now), ARGV[at] }
  end
  at = at + 1
end

set('m:' .. id, text(math.max(number('m:' .. id), tonumber(till))))
set('k:' .. id, text(math.max(number('k:' .. id), applied)))

-- What it left marked may have changed.
local function settle(gone, seq)
  local fields = redis.call('HGETALL', K)
  for field = 1, #fields, 2 do
    local name = string.match(fields[field], '^s:(.+)$')
    if name then
      local generation, marks = read_slot(name)
      local left, count = string.gsub(marks, ' ' .. gone .. '%.%d+', '')
      if count > 0 then
        write_slot(name, generation + 1, seq, left)
      end
    end
  end
  log(seq)
end

-- Only who did nothing since the list that the census was compared with, and hits no more.
local gone_seq = tonumber(ARGV[at])
for _ = 1, tonumber(ARGV[at + 1]) do
  local gone = ARGV[at + 2]
  at = at + 1
  if gone ~= id and get('m:' .. gone) and number('a:' .. gone) <= gone_seq
    and number('g:' .. gone) <= now then
    remove(gone)
    settle(gone, next_seq())
  end
end

-- Shut for a lease, in which what earlier lives of K left behind runs out, and until those of another
-- PostgreSQL may hit no more: theirs may have been longer.
if not get('since') then
  set('since', text(now))
elseif now >= number('since') + lease and now >= number('past') then
  set('open', act)
end

local ids, ends, grant = members(), earliest(), 0
if is_open() and (wants_grant or #ids == 1) then
  grant = ends - now
  -- The reply may be lost, and an earlier grant still be used.
  set('g:' .. id, text(math.max(number('g:' .. id), ends)))
elseif get('g:' .. id) and number('g:' .. id) <= now then
  delete('g:' .. id)
end

local seq = number('seq')
local reply = { 'ok', text(now), flag(is_open()), text(seq), text(grant), text(#ids) }
append_news(reply, applied, seq)
end_at(ends)
return reply
