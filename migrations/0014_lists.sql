-- Lists that are read page by page have an index in their order.
DROP INDEX api_key_in_organization;
CREATE INDEX api_key_in_organization ON api_key (organization_id, id);
-- The keys of no project again, after it: of two that would do SQLite takes the newer.
DROP INDEX api_key_by_organization;
CREATE INDEX api_key_by_organization ON api_key (organization_id, id) WHERE project_id IS NULL;
