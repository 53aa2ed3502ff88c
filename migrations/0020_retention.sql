-- How long the requests of an organization are kept. Their sums stay.

-- NULL: for ever.
ALTER TABLE organization ADD COLUMN requests_days BIGINT;
-- All that were admitted before have been deleted.
ALTER TABLE organization ADD COLUMN requests_from BIGINT NOT NULL DEFAULT 0;
