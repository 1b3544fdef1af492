-- act id
if not is_of(ARGV[1]) then
  return say('lost')
end
next_seq()
remove(ARGV[2])
end_at(earliest())
return say('ok')
