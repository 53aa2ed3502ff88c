-- What a project wants done with requests that come from a browser: NULL is to refuse them, `allow` to take them.
ALTER TABLE project ADD COLUMN browser_requests TEXT;
