-- Invites into an organization. Of the token there is only what verifies it, under the pepper of that version.
CREATE TABLE invite (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    -- JSON: [{"id", "role"}]
    projects TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL REFERENCES app_user (id),
    expires_at BIGINT NOT NULL,
    accepted_at BIGINT,
    pepper_version BIGINT NOT NULL,
    verifier BLOB NOT NULL UNIQUE
);
CREATE INDEX invite_by_organization ON invite (organization_id, id);
CREATE INDEX invite_by_email ON invite (organization_id, email);

-- Argon2id, in the form of a PHC string; NULL for whoever never chose one.
ALTER TABLE app_user ADD COLUMN password TEXT;
