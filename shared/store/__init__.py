"""Everything that is kept in Redis: jobs, workers, collections, tenants. Lua scripts make every move."""
