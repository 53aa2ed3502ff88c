-- What became of requests beside their money: how many were answered, refused or failed, how long they took, and which programs
-- sent them. Sums, of an organization by the hour and of a key by the day; kept for some days.
CREATE TABLE activity (
    organization_id TEXT NOT NULL REFERENCES organization (id),
    -- Empty for the sum over all keys.
    api_key_id TEXT NOT NULL,
    start_time BIGINT NOT NULL,
    -- 'answered'; 'abandoned' by the client; 'refused' by Tollgate or 'failed', `name` being the error's code; 'time', `name` being
    -- the end of a bucket in microseconds; 'client', `name` being a user agent.
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    requests BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (organization_id, api_key_id, start_time, kind, name)
);
CREATE INDEX activity_by_time ON activity (start_time);
CREATE INDEX activity_refused ON activity (organization_id, start_time) WHERE kind = 'refused';

-- Lists of keys that end first, and of those that have rested longest.
CREATE INDEX api_key_by_end ON api_key (organization_id, expires_at, id) WHERE expires_at IS NOT NULL AND revoked_at IS NULL;
-- The day (of UTC) of its last use, or of its making: one that changes with every use would rewrite its index as often.
ALTER TABLE api_key ADD COLUMN rests_since BIGINT NOT NULL DEFAULT 0;
UPDATE api_key SET rests_since = COALESCE(last_used_at, created_at) / 86400 * 86400;
CREATE INDEX api_key_by_rest ON api_key (organization_id, rests_since, id) WHERE revoked_at IS NULL;
-- With the name, so that one is looked for without reading every key.
DROP INDEX api_key_in_organization;
CREATE INDEX api_key_in_organization ON api_key (organization_id, id, name);
-- And in the order in which they are listed.
DROP INDEX api_key_by_member;
CREATE INDEX api_key_by_member ON api_key (organization_id, user_id, id) WHERE user_id IS NOT NULL;
DROP INDEX api_key_by_service_account;
CREATE INDEX api_key_by_service_account ON api_key (service_account_id, id) WHERE service_account_id IS NOT NULL;
