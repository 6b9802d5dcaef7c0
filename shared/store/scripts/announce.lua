-- A worker tells that it lives, also while memory is full: the fleet must not seem to vanish then.
--   dq:worker:{name} string  its description      dq:workers zset, dq:pools set  list it
-- ARGV 2 name  3 pool  4 description JSON  5 ms it is believed for
even_when_full()
redis.call('SET', worker_key(ARGV[2]), ARGV[4], 'PX', ARGV[5])
redis.call('ZADD', workers_key(), now, ARGV[2])
redis.call('SADD', pools_key(), ARGV[3])
return 1
