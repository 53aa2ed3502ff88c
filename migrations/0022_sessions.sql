-- People who are signed in to the console. What is stored opens nothing: it verifies the token in their cookie.
CREATE TABLE person_session (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES app_user (id),
    -- The organization that is looked at.
    organization_id TEXT NOT NULL REFERENCES organization (id),
    pepper_version BIGINT NOT NULL,
    verifier BLOB NOT NULL UNIQUE,
    -- 'password', or 'oidc' for whom a provider of identities has vouched.
    method TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ip_address TEXT,
    user_agent TEXT
);
CREATE INDEX person_session_by_user ON person_session (user_id);
CREATE INDEX person_session_by_expiry ON person_session (expires_at);
