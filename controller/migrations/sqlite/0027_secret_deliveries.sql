-- Which version of a secret has last left for a site; `sealed_sha256` tells versions apart. It is in the audit once.
CREATE TABLE secret_deliveries (
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    sealed_sha256 TEXT NOT NULL,
    delivered_at INTEGER NOT NULL,
    PRIMARY KEY (site_id, scope, name)
) STRICT, WITHOUT ROWID;
