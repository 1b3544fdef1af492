-- act id
-- It answers nobody any more. It stays a member: who finds it gone from PostgreSQL drops it, and need
-- not wait for the grant of one who stopped, with whose lease K would have to end.
if not is_of(ARGV[1]) or not get('m:' .. ARGV[2]) then
  return say('lost')
end
delete('g:' .. ARGV[2])
return say('ok')
