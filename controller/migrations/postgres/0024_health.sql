-- What the system of a machine said last of how it is.
ALTER TABLE nodes ADD COLUMN health_status TEXT NOT NULL DEFAULT 'unknown';
