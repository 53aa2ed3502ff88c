-- Who wants to be told when an organization or a project has spent so much in a month of UTC.
CREATE TABLE spend_alert (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    -- NULL for the whole organization.
    project_id TEXT REFERENCES project (id),
    -- In cents.
    threshold_amount BIGINT NOT NULL,
    -- How they are told, as it is shown: JSON.
    channel TEXT NOT NULL,
    -- Where to, and what signs it, for channels in whose address a secret may be: sealed JSON.
    secret BLOB,
    created_at BIGINT NOT NULL,
    -- What was spent in months that had ended before is not told of.
    changed_at BIGINT NOT NULL
);
CREATE INDEX spend_alert_by_organization ON spend_alert (organization_id, id) WHERE project_id IS NULL;
CREATE INDEX spend_alert_by_project ON spend_alert (project_id, id) WHERE project_id IS NOT NULL;

-- That a threshold was reached in a month, which is told once.
CREATE TABLE spend_alert_crossing (
    spend_alert_id TEXT NOT NULL,
    period_start BIGINT NOT NULL,
    threshold_amount BIGINT NOT NULL,
    crossed_at BIGINT NOT NULL,
    PRIMARY KEY (spend_alert_id, period_start, threshold_amount)
) WITHOUT ROWID;

-- What is to be told to whom: written with what it tells, and sent afterwards until it has arrived.
CREATE TABLE notification (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    project_id TEXT,
    spend_alert_id TEXT NOT NULL,
    event TEXT NOT NULL,
    channel TEXT NOT NULL,
    secret BLOB,
    -- What webhooks get, as JSON; the words of an e-mail are made of it.
    payload TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    -- When it is tried next; NULL once it has arrived or is given up.
    next_attempt_at BIGINT,
    delivered_at BIGINT,
    -- Why the last attempt failed.
    error TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX notification_due ON notification (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX notification_by_organization ON notification (organization_id, id);
CREATE INDEX notification_by_alert ON notification (spend_alert_id, id);
