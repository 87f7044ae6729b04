-- How often anything has changed that manifests are made of, beside nodes and the settings of a site, which have numbers of their own.
ALTER TABLE installation ADD COLUMN content_number INTEGER NOT NULL DEFAULT 0;

-- The three numbers under which a manifest was last found to be what its site is to hold: while they stand, it is. Beside the manifest
-- and not in it, because each heartbeat looks here, and a manifest may be long.
CREATE TABLE manifest_bases (
    site_id TEXT PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    content_number INTEGER NOT NULL,
    nodes_number INTEGER NOT NULL,
    settings_version INTEGER NOT NULL
) STRICT;
