-- act mark committed slot…
local act, mark, committed = ARGV[1], ' ' .. ARGV[2] .. ' ', ARGV[3] == '1'
read_all({}, 4)
if not is_of(act) then
  return say('lost')
end
local seq
for at = 4, #ARGV do
  local generation, marks = read_slot(ARGV[at])
  local first, last = string.find(marks .. ' ', mark, 1, true)
  if first then
    seq = seq or next_seq()
    local left = string.sub(marks, 1, first - 1) .. string.sub(marks, last)
    write_slot(ARGV[at], committed and generation + 1 or generation, seq, left)
  end
end
if seq then
  log(seq)
  save()
end
return append_slots(say('ok'), 4)
