-- act slot…
read_all({}, 2)
if not is_of(ARGV[1]) then
  return say('lost')
end
local seq = next_seq()
for at = 2, #ARGV do
  local generation, marks = read_slot(ARGV[at])
  write_slot(ARGV[at], generation + 1, seq, marks)
end
log(seq)
save()
return append_slots(say('ok'), 2)
