-- The projects that an admin key is restricted to, with spaces between them; NULL for no such restriction.
ALTER TABLE api_key ADD COLUMN restricted_to TEXT;
