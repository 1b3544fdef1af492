-- act id applied
local act, id, applied = ARGV[1], ARGV[2], tonumber(ARGV[3])
read_all({ 'm:' .. id, 'k:' .. id }, #ARGV + 1)
if not is_of(act) or not get('m:' .. id) then
  return say('lost')
end
if applied > number('k:' .. id) then
  set('k:' .. id, text(applied))
end
local seq = number('seq')
return append_news({ 'ok', text(now), text(seq) }, applied, seq)
