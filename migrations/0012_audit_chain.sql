-- The events of an organization are a chain: each row's mac is over its content, its number and the mac before it, under a
-- pepper that is not in the database.
ALTER TABLE audit_log ADD COLUMN seq BIGINT;
ALTER TABLE audit_log ADD COLUMN mac BLOB;
ALTER TABLE audit_log ADD COLUMN pepper_version BIGINT;
CREATE UNIQUE INDEX audit_log_by_seq ON audit_log (organization_id, seq);

-- The end of each chain. An organization without one has events from before there were chains, or none.
CREATE TABLE audit_head (
    organization_id TEXT NOT NULL PRIMARY KEY REFERENCES organization (id),
    seq BIGINT NOT NULL,
    mac BLOB NOT NULL
);
