-- act id joined mark slot…
local act, id, joined, mark = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
read_all({ 'm:' .. id, 'j:' .. id, 's:c' }, 5)
-- One that arrives after its sender has come anew, and has ended this commit, would never be ended.
if not is_of(act) or not get('m:' .. id) or get('j:' .. id) ~= joined then
  return say('lost')
end
local seq = next_seq()
set('a:' .. id, text(seq))
local catalog, is_catalog = get_slot('c'), false
for at = 5, #ARGV do
  add_mark(ARGV[at], mark, seq)
  is_catalog = is_catalog or ARGV[at] == 'c'
end
log(seq)
save()
local reply = { 'ok', text(now), flag(is_open()), text(seq), catalog }
local count = #reply
append_waits(reply, id, seq, is_catalog)
if #reply > count then
  -- Who is not told, or not allowed to be, hears of it when it renews its lease.
  local name = string.match(K, '^fb:{(.+):[^:]+:[^:]+}$') or ''
  redis.pcall('PUBLISH', 'fb:{' .. name .. '}:talk', '\2' .. id .. ' ' .. K)
end
return reply
