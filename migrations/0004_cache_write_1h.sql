-- To keep input in the cache for an hour has a price of its own.
ALTER TABLE model_override ADD COLUMN cache_write_1h_price BIGINT;
