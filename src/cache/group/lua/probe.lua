-- Which of the commands that the scripts run may this user not run on K? Redis 6 cannot tell.
local missing = {}
if redis.acl_check_cmd then
  local K = KEYS[1]
  for _, command in ipairs({
    { 'TIME' }, { 'HGET', K, 'f' }, { 'HMGET', K, 'f' }, { 'HSET', K, 'f', 'v' },
    { 'HDEL', K, 'f' }, { 'HGETALL', K }, { 'HLEN', K }, { 'DEL', K }, { 'PEXPIREAT', K, 1 },
  }) do
    if not redis.acl_check_cmd(unpack(command)) then
      missing[#missing + 1] = command[1]
    end
  end
end
return missing
