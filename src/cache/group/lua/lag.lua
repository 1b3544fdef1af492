-- act id seq all
local act, id, seq, all = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
read_all({ 'm:' .. id }, #ARGV + 1)
if not is_of(act) or not get('m:' .. id) then
  return say('lost')
end
return append_waits(say('ok'), id, seq, all)
