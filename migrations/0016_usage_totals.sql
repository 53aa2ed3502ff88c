-- Usage in the tier that it was served in, with what was heard, spoken and kept for an hour; and the sums of projects and
-- organizations, so that to ask for them costs the same however many keys there are.

-- Of the input that was neither read from the cache nor written to it, what was heard; of the output, what was spoken.
ALTER TABLE attempt ADD COLUMN service_tier TEXT NOT NULL DEFAULT 'default';
ALTER TABLE attempt ADD COLUMN cache_write_1h_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN audio_input_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN audio_output_tokens BIGINT NOT NULL DEFAULT 0;

-- The sums of a key. A key never changes its project or owner, so it stands for them.
CREATE TABLE new_usage_rollup (
    key_number BIGINT NOT NULL,
    width BIGINT NOT NULL,
    bucket_start BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    service_tier TEXT NOT NULL,
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
    cache_write_1h_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    drained_output_tokens BIGINT NOT NULL,
    PRIMARY KEY (key_number, width, bucket_start, endpoint, model, upstream_id, service_tier)
) WITHOUT ROWID;
INSERT INTO new_usage_rollup (key_number, width, bucket_start, endpoint, model, upstream_id, service_tier, requests,
    clamped_requests, input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost, adjusted_cost,
    input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, output_tokens,
    audio_output_tokens, drained_output_tokens)
SELECT key_number, width, bucket_start, endpoint, model, upstream_id, 'default', requests, clamped_requests, input_cost,
    cached_input_cost, cache_write_cost, output_cost, drained_output_cost, adjusted_cost, input_tokens, cached_input_tokens,
    cache_write_tokens, 0, 0, output_tokens, 0, drained_output_tokens
FROM usage_rollup;
DROP TABLE usage_rollup;
ALTER TABLE new_usage_rollup RENAME TO usage_rollup;
-- For questions about all keys, of which most have rested.
CREATE INDEX usage_rollup_by_time ON usage_rollup (width, bucket_start);

-- The sums of a project, and with an empty `project_id` those of the organization.
CREATE TABLE usage_total (
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    width BIGINT NOT NULL,
    bucket_start BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    service_tier TEXT NOT NULL,
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
    cache_write_1h_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    drained_output_tokens BIGINT NOT NULL,
    PRIMARY KEY (organization_id, project_id, width, bucket_start, endpoint, model, upstream_id, service_tier)
) WITHOUT ROWID;
INSERT INTO usage_total (organization_id, width, bucket_start, project_id, endpoint, model, upstream_id, service_tier,
    requests, clamped_requests, input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost,
    adjusted_cost, input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens,
    output_tokens, audio_output_tokens, drained_output_tokens)
SELECT k.organization_id, r.width, r.bucket_start, CASE WHEN l.level = 1 THEN k.project_id ELSE '' END, r.endpoint, r.model,
    r.upstream_id, r.service_tier, SUM(r.requests), SUM(r.clamped_requests), SUM(r.input_cost), SUM(r.cached_input_cost),
    SUM(r.cache_write_cost), SUM(r.output_cost), SUM(r.drained_output_cost), SUM(r.adjusted_cost), SUM(r.input_tokens),
    SUM(r.cached_input_tokens), SUM(r.cache_write_tokens), SUM(r.cache_write_1h_tokens), SUM(r.audio_input_tokens),
    SUM(r.output_tokens), SUM(r.audio_output_tokens), SUM(r.drained_output_tokens)
FROM usage_rollup r JOIN api_key k ON k.number = r.key_number CROSS JOIN (SELECT 1 AS level UNION ALL SELECT 2 AS level) l
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
-- For questions about all projects.
CREATE INDEX usage_total_by_time ON usage_total (organization_id, width, bucket_start) WHERE project_id <> '';
