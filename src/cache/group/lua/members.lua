-- act
if not is_of(ARGV[1]) then
  return say('lost')
end
local reply = { 'ok', text(now), text(number('seq')) }
for _, id in ipairs(members()) do
  reply[#reply + 1] = id
end
return reply
