-- Limits at every level, attempts and rollups in the compact form that the ledger writes fastest, corrections.
-- WITHOUT ROWID is for SQLite, where it makes the primary key the table's own order; PostgreSQL's driver leaves it out.

-- A key's short name in the books. A key never changes its project or owner, so it stands for them there.
ALTER TABLE api_key ADD COLUMN number BIGINT;
UPDATE api_key SET number = numbered.number
FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS number FROM api_key) AS numbered WHERE numbered.id = api_key.id;
CREATE UNIQUE INDEX api_key_by_number ON api_key (number);
CREATE INDEX api_key_in_organization ON api_key (organization_id);

-- What an attempt cost is the sum of its parts; who pays is its key's owner, project and organization.
CREATE TABLE new_attempt (
    id TEXT NOT NULL PRIMARY KEY,
    attempt_of TEXT,
    key_number BIGINT NOT NULL,
    -- 'completions' or 'embeddings', as OpenAI's usage endpoints are called.
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    state TEXT NOT NULL,
    usage_source TEXT,
    is_recovered BOOLEAN NOT NULL,
    is_priced BOOLEAN NOT NULL,
    -- The most it can cost; NULL if nothing bounds it.
    bound BIGINT,
    -- While it is held: what it would cost at the bound. Zero when voided.
    input_cost BIGINT NOT NULL,
    cached_input_cost BIGINT NOT NULL,
    cache_write_cost BIGINT NOT NULL,
    output_cost BIGINT NOT NULL,
    drained_output_cost BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    drained_output_tokens BIGINT NOT NULL,
    -- The most output of a choice that the upstream was told, where that is less than was asked for.
    clamped_to BIGINT,
    -- What is odd about its usage, as words; and then the usage as the upstream reported it, as JSON.
    flags TEXT,
    reported_usage TEXT,
    created_at BIGINT NOT NULL,
    resolved_at BIGINT
) WITHOUT ROWID;
INSERT INTO new_attempt (id, attempt_of, key_number, endpoint, model, upstream_id, state, usage_source, is_recovered,
    is_priced, bound, input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, drained_output_tokens, clamped_to, flags, reported_usage,
    created_at, resolved_at)
SELECT a.id, a.attempt_of, k.number, a.endpoint, a.model, a.upstream_id, a.state, a.usage_source, a.is_recovered,
    a.is_priced, a.bound, a.input_cost, a.cached_input_cost, a.cache_write_cost, a.output_cost, 0, a.input_tokens,
    a.cached_input_tokens, a.cache_write_tokens, a.output_tokens, 0, NULL, NULL, NULL, a.created_at, a.resolved_at
FROM attempt a JOIN api_key k ON k.id = a.api_key_id;
DROP TABLE attempt;
ALTER TABLE new_attempt RENAME TO attempt;
CREATE INDEX attempt_by_key ON attempt (key_number, id);
CREATE INDEX attempt_open ON attempt (id) WHERE state = 'held';

-- What a settled attempt was corrected by afterwards. Its own row stays as it was.
CREATE TABLE adjustment (
    id TEXT NOT NULL PRIMARY KEY,
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    -- 'correction' or 'refund'.
    kind TEXT NOT NULL,
    -- By so much more, or less if negative.
    cost BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reason TEXT NOT NULL,
    created_by TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX adjustment_by_attempt ON adjustment (attempt_id);

-- Sums of the settled attempts admitted in [bucket_start, bucket_start + width), and of their adjustments.
CREATE TABLE new_usage_rollup (
    key_number BIGINT NOT NULL,
    width BIGINT NOT NULL,
    bucket_start BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    requests BIGINT NOT NULL,
    clamped_requests BIGINT NOT NULL,
    input_cost BIGINT NOT NULL,
    cached_input_cost BIGINT NOT NULL,
    cache_write_cost BIGINT NOT NULL,
    output_cost BIGINT NOT NULL,
    drained_output_cost BIGINT NOT NULL,
    adjusted_cost BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    drained_output_tokens BIGINT NOT NULL,
    PRIMARY KEY (key_number, width, bucket_start, endpoint, model, upstream_id)
) WITHOUT ROWID;
INSERT INTO new_usage_rollup (key_number, width, bucket_start, endpoint, model, upstream_id, requests, clamped_requests,
    input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost, adjusted_cost, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, drained_output_tokens)
SELECT a.key_number, w.width, (a.created_at / w.width) * w.width, a.endpoint, a.model, a.upstream_id, COUNT(*), 0,
    SUM(a.input_cost), SUM(a.cached_input_cost), SUM(a.cache_write_cost), SUM(a.output_cost), 0, 0,
    SUM(a.input_tokens), SUM(a.cached_input_tokens), SUM(a.cache_write_tokens), SUM(a.output_tokens), 0
FROM attempt a CROSS JOIN (SELECT 3600 AS width UNION ALL SELECT 86400 AS width) w
WHERE a.state = 'settled'
GROUP BY a.key_number, w.width, (a.created_at / w.width) * w.width, a.endpoint, a.model, a.upstream_id;
DROP TABLE usage_rollup;
ALTER TABLE new_usage_rollup RENAME TO usage_rollup;

CREATE TABLE new_spend_limit (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    -- 'organization', 'project', 'user' or 'api_key', and its id.
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    -- 'day', 'week' or 'month', in an IANA time zone.
    period TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    amount BIGINT NOT NULL,
    -- 'enforce' or 'observe'.
    mode TEXT NOT NULL,
    -- Since when it counts these periods: the sums of those that began before are taken from the attempts.
    counts_since BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (organization_id, scope, scope_id, period)
);
INSERT INTO new_spend_limit (id, organization_id, scope, scope_id, period, time_zone, amount, mode, counts_since,
    created_at, updated_at)
SELECT l.id, p.organization_id, 'project', l.scope_id, 'month', 'UTC', l.amount, 'enforce', 9223372036854775807,
    l.created_at, l.updated_at
FROM spend_limit l JOIN project p ON p.id = l.scope_id;
DROP TABLE spend_limit;
ALTER TABLE new_spend_limit RENAME TO spend_limit;
CREATE INDEX spend_limit_of_scope ON spend_limit (scope, scope_id);

-- One spend limit over one period: what the attempts admitted in it have cost (settled) and may yet cost (held).
CREATE TABLE new_budget (
    spend_limit_id TEXT NOT NULL,
    period_start BIGINT NOT NULL,
    period_end BIGINT NOT NULL,
    settled BIGINT NOT NULL,
    held BIGINT NOT NULL,
    -- Attempts in flight that nothing bounds.
    unbounded BIGINT NOT NULL,
    -- When it last refused a request because the money was spent, and let none through since.
    refused_at BIGINT,
    -- Requests that it would have refused if it did not only observe.
    observed BIGINT NOT NULL,
    PRIMARY KEY (spend_limit_id, period_start)
) WITHOUT ROWID;
-- Budgets are opened anew when they are next asked for, with the sums of their attempts.
DROP TABLE budget;
ALTER TABLE new_budget RENAME TO budget;

-- Limits that new projects and new keys of an organization begin with.
CREATE TABLE default_spend_limit (
    organization_id TEXT NOT NULL REFERENCES organization (id),
    -- 'project' or 'api_key'.
    scope TEXT NOT NULL,
    period TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    amount BIGINT NOT NULL,
    mode TEXT NOT NULL,
    PRIMARY KEY (organization_id, scope, period)
);

-- What a project wants done with a request that does not fit.
ALTER TABLE project ADD COLUMN when_exceeded TEXT;
ALTER TABLE project ADD COLUMN clamp_output_min BIGINT;
ALTER TABLE project ADD COLUMN budget_wait_ms BIGINT;

-- How an upstream reads the limit of the output, and what becomes of an answer whose client has gone. NULL: by its kind.
ALTER TABLE upstream ADD COLUMN output_limit_field TEXT;
ALTER TABLE upstream ADD COLUMN on_client_gone TEXT;
-- How its credential is presented; NULL: by its address.
ALTER TABLE upstream ADD COLUMN authentication TEXT;
-- Names with spaces between them: parameters that an operator allows under a spend limit though they are not known here.
ALTER TABLE upstream ADD COLUMN allowed_parameters TEXT;

ALTER TABLE model_override ADD COLUMN image_tokens BIGINT;
ALTER TABLE model_override ADD COLUMN request_cost_max BIGINT;

-- Answers of a model that cost more than their bound. They raise the bounds of its later requests.
CREATE TABLE bound_violation (
    model TEXT NOT NULL PRIMARY KEY,
    -- All there ever were, and what they cost beyond their bounds.
    violations BIGINT NOT NULL,
    excess BIGINT NOT NULL,
    -- The worst that the input, and the output of a choice, were: in millionths of a large bound, in tokens beyond a
    -- small one, and in tokens altogether.
    input_ppm BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    input_seen BIGINT NOT NULL,
    output_ppm BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    output_seen BIGINT NOT NULL,
    last_at BIGINT NOT NULL
);

-- The key itself that acted, besides its owner.
ALTER TABLE audit_log ADD COLUMN actor_key_id TEXT;
