-- Alerts of other things than spend, over the same channels.

-- Words with spaces between them; NULL for a spend alert.
ALTER TABLE spend_alert ADD COLUMN events TEXT;
-- After so many days without use a key is told of.
ALTER TABLE spend_alert ADD COLUMN unused_after_days BIGINT;
-- Up to when the expiry and the use of keys were looked at for it.
ALTER TABLE spend_alert ADD COLUMN looked_at BIGINT;
-- Who made it: of what operators alone are told, only as long as they are one.
ALTER TABLE spend_alert ADD COLUMN created_by TEXT;
CREATE INDEX spend_alert_of_events ON spend_alert (organization_id, id) WHERE events IS NOT NULL;

-- What an alert was told of once, and must not be again.
CREATE TABLE event_told (
    alert_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    told_at BIGINT NOT NULL,
    PRIMARY KEY (alert_id, subject)
) WITHOUT ROWID;

-- Upstreams that cannot be used, or could not.
CREATE TABLE upstream_outage (
    upstream_id TEXT NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL,
    ended_at BIGINT,
    -- Whether anybody was told of it: not of one that follows another closely.
    is_told BOOLEAN NOT NULL,
    told_at BIGINT
) WITHOUT ROWID;

CREATE INDEX budget_refused ON budget (refused_at) WHERE refused_at IS NOT NULL;
CREATE INDEX api_key_by_expiry ON api_key (expires_at) WHERE expires_at IS NOT NULL AND revoked_at IS NULL;
