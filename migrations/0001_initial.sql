-- The first schema. Portable between SQLite and PostgreSQL: TEXT, BIGINT, BOOLEAN and BLOB (BYTEA there) only.
-- Times are unix seconds, money is nano-dollars, unit prices are pico-dollars per token. Ids are made by the program.

-- What is true of the installation as a whole, such as the fingerprints of its master keys.
CREATE TABLE installation (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE organization (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- A person. Belongs to organizations through organization_user.
CREATE TABLE app_user (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    is_operator BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE organization_user (
    organization_id TEXT NOT NULL REFERENCES organization (id),
    user_id TEXT NOT NULL REFERENCES app_user (id),
    role TEXT NOT NULL,
    -- Plain labels of OpenAI's, stored and shown.
    developer_persona TEXT,
    technical_level TEXT,
    added_at BIGINT NOT NULL,
    PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX organization_user_by_user ON organization_user (user_id);

CREATE TABLE project (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    name TEXT NOT NULL,
    is_default BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE INDEX project_by_organization ON project (organization_id, id);

CREATE TABLE project_user (
    project_id TEXT NOT NULL REFERENCES project (id),
    user_id TEXT NOT NULL REFERENCES app_user (id),
    role TEXT NOT NULL,
    added_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX project_user_by_user ON project_user (user_id);

CREATE TABLE service_account (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES project (id),
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE INDEX service_account_by_project ON service_account (project_id, id);

-- A key: who it belongs to and what it may do. Its secrets are separate, so that they can be rotated under one id.
CREATE TABLE api_key (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    project_id TEXT REFERENCES project (id),
    user_id TEXT REFERENCES app_user (id),
    service_account_id TEXT REFERENCES service_account (id),
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    redacted_value TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT,
    expires_at BIGINT,
    last_used_at BIGINT,
    -- Off while the owner has no access to the project. Only an explicit reactivation turns it on again.
    is_active BOOLEAN NOT NULL,
    -- Set once, never cleared.
    revoked_at BIGINT
);
CREATE INDEX api_key_by_project ON api_key (project_id, id) WHERE project_id IS NOT NULL;
CREATE INDEX api_key_by_organization ON api_key (organization_id, id) WHERE project_id IS NULL;
CREATE INDEX api_key_by_user ON api_key (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX api_key_by_service_account ON api_key (service_account_id) WHERE service_account_id IS NOT NULL;

-- What verifies a key. Nothing here opens anything without the pepper, which is not in the database. The verifier is
-- wiped when the key is revoked; the row stays as its history.
CREATE TABLE api_key_secret (
    locator TEXT NOT NULL PRIMARY KEY,
    api_key_id TEXT NOT NULL REFERENCES api_key (id),
    scheme TEXT NOT NULL,
    pepper_version BIGINT NOT NULL,
    verifier BLOB,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_key_secret_by_key ON api_key_secret (api_key_id);

CREATE TABLE upstream (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    base_url TEXT NOT NULL,
    -- AES-256-GCM, bound to the row and to the origin of base_url; NULL when the upstream wants none.
    credential BLOB,
    created_at BIGINT NOT NULL
);

CREATE TABLE upstream_model (
    upstream_id TEXT NOT NULL REFERENCES upstream (id),
    model TEXT NOT NULL,
    PRIMARY KEY (upstream_id, model)
);

-- What the operator says of a model; each NULL leaves the embedded data as it is.
CREATE TABLE model_override (
    model TEXT NOT NULL PRIMARY KEY,
    input_price BIGINT,
    cached_input_price BIGINT,
    cache_write_price BIGINT,
    output_price BIGINT,
    context_tokens BIGINT,
    max_output_tokens BIGINT,
    updated_at BIGINT NOT NULL
);

CREATE TABLE spend_limit (
    id TEXT NOT NULL PRIMARY KEY,
    -- 'project' and its id.
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    amount BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (scope, scope_id)
);

-- One spend limit over one period: what the attempts admitted in it have cost (settled) and may yet cost (held).
CREATE TABLE budget (
    spend_limit_id TEXT NOT NULL,
    period_start BIGINT NOT NULL,
    settled BIGINT NOT NULL,
    held BIGINT NOT NULL,
    -- When it first refused a request because the money was spent; cleared when the limit is set anew.
    refused_at BIGINT,
    PRIMARY KEY (spend_limit_id, period_start)
);

-- One dispatch to an upstream: the hold, the usage event and the ledger entry in one row.
CREATE TABLE attempt (
    id TEXT NOT NULL PRIMARY KEY,
    attempt_of TEXT,
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    api_key_id TEXT NOT NULL,
    -- The user or service account that owns the key.
    owner_id TEXT NOT NULL,
    -- 'completions' or 'embeddings', as OpenAI's usage endpoints are called.
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    state TEXT NOT NULL,
    usage_source TEXT,
    is_recovered BOOLEAN NOT NULL,
    is_priced BOOLEAN NOT NULL,
    -- The most it can cost.
    bound BIGINT NOT NULL,
    -- What it cost, once settled; zero when voided. While it is held: what it would cost at the bound.
    cost BIGINT NOT NULL,
    input_cost BIGINT NOT NULL,
    cached_input_cost BIGINT NOT NULL,
    cache_write_cost BIGINT NOT NULL,
    output_cost BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    resolved_at BIGINT
);
CREATE INDEX attempt_by_project ON attempt (project_id, id);
CREATE INDEX attempt_by_key ON attempt (api_key_id, id);
CREATE INDEX attempt_open ON attempt (project_id) WHERE state = 'held';

-- Sums of the settled attempts admitted in [bucket_start, bucket_start + width).
CREATE TABLE usage_rollup (
    width BIGINT NOT NULL,
    bucket_start BIGINT NOT NULL,
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    api_key_id TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    requests BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    input_cost BIGINT NOT NULL,
    cached_input_cost BIGINT NOT NULL,
    cache_write_cost BIGINT NOT NULL,
    output_cost BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    PRIMARY KEY (width, organization_id, bucket_start, project_id, api_key_id, owner_id, endpoint, model)
);

CREATE TABLE audit_log (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    event_type TEXT NOT NULL,
    effective_at BIGINT NOT NULL,
    project_id TEXT,
    project_name TEXT,
    -- JSON: OpenAI's actor object.
    actor TEXT NOT NULL,
    actor_id TEXT,
    actor_email TEXT,
    resource_id TEXT NOT NULL,
    -- JSON: what stands under the key named like the event type.
    payload TEXT NOT NULL
);
CREATE INDEX audit_log_by_organization ON audit_log (organization_id, id);

-- What changed, in the order of the commits. The applier of the replica reads it.
CREATE TABLE change_log (
    seq BIGINT NOT NULL PRIMARY KEY,
    organization_id TEXT,
    entity TEXT NOT NULL,
    entity_id TEXT NOT NULL
);
