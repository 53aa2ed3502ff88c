-- What an operator sets of an upstream is read as a whole and never searched: one JSON object, what is left out is the
-- usual.
ALTER TABLE upstream ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
-- Extra headers of every request, as a JSON object: AES-256-GCM, bound to the row and to the origin of base_url.
ALTER TABLE upstream ADD COLUMN headers BLOB;
UPDATE upstream SET settings = json_object(
    'authentication', authentication,
    'output_limit_field', output_limit_field,
    'on_client_gone', on_client_gone,
    'allowed_parameters', json(CASE WHEN allowed_parameters IS NULL THEN '[]'
        ELSE '["' || replace(allowed_parameters, ' ', '","') || '"]' END));
ALTER TABLE upstream DROP COLUMN authentication;
ALTER TABLE upstream DROP COLUMN output_limit_field;
ALTER TABLE upstream DROP COLUMN on_client_gone;
ALTER TABLE upstream DROP COLUMN allowed_parameters;
