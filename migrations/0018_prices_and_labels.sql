-- Prices with versions and dates; fees beside tokens; and labels, fixed into the record of each request.

-- What an operator says of a model's prices, from a time on. A version whose time has begun is never changed.
CREATE TABLE model_price (
    version BIGINT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL,
    effective_from BIGINT NOT NULL,
    -- NULL until further notice.
    effective_until BIGINT,
    -- Until when it was to hold when it was set, whatever came of that.
    asked_until BIGINT,
    -- An object of decimal texts; what is not in it is as the embedded data has it.
    figures TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT
);
CREATE INDEX model_price_by_model ON model_price (model, effective_from);
INSERT INTO model_price (version, model, effective_from, effective_until, asked_until, figures, created_at, created_by)
SELECT ROW_NUMBER() OVER (ORDER BY model), model, updated_at, NULL, NULL,
    '{"input_price":' || COALESCE('"' || CAST(input_price / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + input_price % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"cached_input_price":' || COALESCE('"' || CAST(cached_input_price / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + cached_input_price % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"cache_write_price":' || COALESCE('"' || CAST(cache_write_price / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + cache_write_price % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"cache_write_1h_price":' || COALESCE('"' || CAST(cache_write_1h_price / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + cache_write_1h_price % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"output_price":' || COALESCE('"' || CAST(output_price / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + output_price % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"audio_input_price":' || COALESCE('"' || CAST(audio_input_price / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + audio_input_price % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"audio_output_price":' || COALESCE('"' || CAST(audio_output_price / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + audio_output_price % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"flex_price_factor":' || COALESCE('"' || CAST(flex_ppm / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + flex_ppm % 1000000 AS TEXT), 2) || '"', 'null')
    || ',"priority_price_factor":' || COALESCE('"' || CAST(priority_ppm / 1000000 AS TEXT) || '.'
        || SUBSTR(CAST(1000000 + priority_ppm % 1000000 AS TEXT), 2) || '"', 'null')
    || '}',
    updated_at, NULL
FROM model_override
WHERE COALESCE(input_price, cached_input_price, cache_write_price, cache_write_1h_price, output_price, audio_input_price,
    audio_output_price, flex_ppm, priority_ppm) IS NOT NULL;
ALTER TABLE model_override DROP COLUMN input_price;
ALTER TABLE model_override DROP COLUMN cached_input_price;
ALTER TABLE model_override DROP COLUMN cache_write_price;
ALTER TABLE model_override DROP COLUMN cache_write_1h_price;
ALTER TABLE model_override DROP COLUMN output_price;
ALTER TABLE model_override DROP COLUMN audio_input_price;
ALTER TABLE model_override DROP COLUMN audio_output_price;
ALTER TABLE model_override DROP COLUMN flex_ppm;
ALTER TABLE model_override DROP COLUMN priority_ppm;
DELETE FROM model_override
WHERE context_tokens IS NULL AND max_output_tokens IS NULL AND image_tokens IS NULL AND request_cost_max IS NULL;

-- Labels: an object of texts. Those of a service account and of a project count for all of their keys.
ALTER TABLE project ADD COLUMN labels TEXT;
ALTER TABLE service_account ADD COLUMN labels TEXT;
ALTER TABLE api_key ADD COLUMN labels TEXT;
CREATE INDEX api_key_with_labels ON api_key (id) WHERE labels IS NOT NULL;
-- Which labels a request may add: an object of lists of values.
ALTER TABLE project ADD COLUMN request_labels TEXT;
-- Labels that attempts carry. The number is made of the labels.
CREATE TABLE label_set (
    number BIGINT NOT NULL PRIMARY KEY,
    labels TEXT NOT NULL
);

-- Which prices it was charged at: an operator's version times a hundred million, plus the day of the embedded data.
ALTER TABLE attempt ADD COLUMN price_version BIGINT;
ALTER TABLE attempt ADD COLUMN label_set BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN request_cost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN tool_cost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN reasoning_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN image_input_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN image_output_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN web_search_calls BIGINT NOT NULL DEFAULT 0;

CREATE TABLE new_usage_rollup (
    key_number BIGINT NOT NULL,
    width BIGINT NOT NULL,
    bucket_start BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    label_set BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    clamped_requests BIGINT NOT NULL,
    input_cost BIGINT NOT NULL,
    cached_input_cost BIGINT NOT NULL,
    cache_write_cost BIGINT NOT NULL,
    output_cost BIGINT NOT NULL,
    drained_output_cost BIGINT NOT NULL,
    request_cost BIGINT NOT NULL,
    tool_cost BIGINT NOT NULL,
    adjusted_cost BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    image_input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    image_output_tokens BIGINT NOT NULL,
    drained_output_tokens BIGINT NOT NULL,
    web_search_calls BIGINT NOT NULL,
    PRIMARY KEY (key_number, width, bucket_start, endpoint, model, upstream_id, service_tier, label_set)
) WITHOUT ROWID;
INSERT INTO new_usage_rollup (key_number, width, bucket_start, endpoint, model, upstream_id, service_tier, label_set, requests,
    clamped_requests, input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost, request_cost, tool_cost,
    adjusted_cost, input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens,
    image_input_tokens, output_tokens, audio_output_tokens, image_output_tokens, drained_output_tokens, web_search_calls)
SELECT key_number, width, bucket_start, endpoint, model, upstream_id, service_tier, 0, requests, clamped_requests, input_cost,
    cached_input_cost, cache_write_cost, output_cost, drained_output_cost, 0, 0, adjusted_cost, input_tokens,
    cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, 0, output_tokens, audio_output_tokens, 0,
    drained_output_tokens, 0
FROM usage_rollup;
DROP TABLE usage_rollup;
ALTER TABLE new_usage_rollup RENAME TO usage_rollup;
CREATE INDEX usage_rollup_by_time ON usage_rollup (width, bucket_start);

-- Of organizations no labels are told apart: there would be as many rows as projects have labels.
CREATE TABLE new_usage_total (
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    width BIGINT NOT NULL,
    bucket_start BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    label_set BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    clamped_requests BIGINT NOT NULL,
    input_cost BIGINT NOT NULL,
    cached_input_cost BIGINT NOT NULL,
    cache_write_cost BIGINT NOT NULL,
    output_cost BIGINT NOT NULL,
    drained_output_cost BIGINT NOT NULL,
    request_cost BIGINT NOT NULL,
    tool_cost BIGINT NOT NULL,
    adjusted_cost BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    image_input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    image_output_tokens BIGINT NOT NULL,
    drained_output_tokens BIGINT NOT NULL,
    web_search_calls BIGINT NOT NULL,
    PRIMARY KEY (organization_id, project_id, width, bucket_start, endpoint, model, upstream_id, service_tier, label_set)
) WITHOUT ROWID;
INSERT INTO new_usage_total (organization_id, project_id, width, bucket_start, endpoint, model, upstream_id, service_tier,
    label_set, requests, clamped_requests, input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost,
    request_cost, tool_cost, adjusted_cost, input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens,
    audio_input_tokens, image_input_tokens, output_tokens, audio_output_tokens, image_output_tokens, drained_output_tokens,
    web_search_calls)
SELECT organization_id, project_id, width, bucket_start, endpoint, model, upstream_id, service_tier, 0, requests,
    clamped_requests, input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost, 0, 0, adjusted_cost,
    input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, 0, output_tokens,
    audio_output_tokens, 0, drained_output_tokens, 0
FROM usage_total;
DROP TABLE usage_total;
ALTER TABLE new_usage_total RENAME TO usage_total;
CREATE INDEX usage_total_by_time ON usage_total (organization_id, width, bucket_start) WHERE project_id <> '';
