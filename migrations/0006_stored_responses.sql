-- Responses that a provider keeps for a project. They live upstream, under one account for all projects: whose they are
-- stands here. `id` is the provider's.
CREATE TABLE stored_response (
    project_id TEXT NOT NULL,
    id TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, id)
) WITHOUT ROWID;
