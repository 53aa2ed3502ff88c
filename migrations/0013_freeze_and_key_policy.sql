-- Since when something is frozen: what it authorizes is refused until it is thawed.
ALTER TABLE api_key ADD COLUMN frozen_at BIGINT;
ALTER TABLE organization_user ADD COLUMN frozen_at BIGINT;
ALTER TABLE project ADD COLUMN frozen_at BIGINT;
ALTER TABLE organization ADD COLUMN frozen_at BIGINT;

-- How long new keys of an organization live: what is not asked for, and at most; NULL for as long as one likes.
ALTER TABLE organization ADD COLUMN key_seconds_usual BIGINT;
ALTER TABLE organization ADD COLUMN key_seconds_max BIGINT;
-- 'any', or 'service_accounts': whose project keys may be made; NULL for any.
ALTER TABLE organization ADD COLUMN key_owners TEXT;
