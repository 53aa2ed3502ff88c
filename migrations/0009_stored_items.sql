-- The items of stored responses, which a later request may name instead of repeating them. `id` is the provider's.
CREATE TABLE stored_item (
    project_id TEXT NOT NULL,
    id TEXT NOT NULL,
    response_id TEXT NOT NULL,
    PRIMARY KEY (project_id, id)
) WITHOUT ROWID;
CREATE INDEX stored_item_response ON stored_item (project_id, response_id);
