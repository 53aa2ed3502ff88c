-- A key may have two secrets for a while: the one that was made last, and the one that it took the place of.

-- When another took its place; NULL for the one that was made last.
ALTER TABLE api_key_secret ADD COLUMN replaced_at BIGINT;
-- What is shown of it, once another has taken its place.
ALTER TABLE api_key_secret ADD COLUMN redacted_value TEXT;
