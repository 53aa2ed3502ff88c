-- Lists that are read page by page have an index in their order.
DROP INDEX api_key_in_organization;
CREATE INDEX api_key_in_organization ON api_key (organization_id, id);
