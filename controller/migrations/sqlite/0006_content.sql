-- Bytes by their hash; where they are kept is the object store's business. `chunks` are the SHA-256 of each MiB, 32 bytes each.
CREATE TABLE objects (
    sha256 TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    location TEXT NOT NULL UNIQUE,
    chunks BLOB NOT NULL,
    -- Null where there is one chunk or none.
    chunks_sha256 TEXT,
    -- Since when no name means it; null while one does.
    unreferenced_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX objects_unreferenced ON objects (unreferenced_at) WHERE unreferenced_at IS NOT NULL;

-- The names, each with the bytes that it means now.
CREATE TABLE content (
    category TEXT NOT NULL,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL REFERENCES objects (sha256),
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (category, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX content_by_object ON content (sha256);

-- What a site is to hold beside what it needs anyway; a name that means nothing for now keeps its place.
CREATE TABLE assigned_content (
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    category TEXT NOT NULL,
    path TEXT NOT NULL,
    PRIMARY KEY (site_id, category, path)
) STRICT, WITHOUT ROWID;

-- The manifest that each site was given last.
CREATE TABLE manifests (
    site_id TEXT PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    entries_sha256 TEXT NOT NULL,
    payload TEXT NOT NULL,
    issued_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The key that agents have pinned: its public half only, so that a controller with another key is noticed when it starts.
CREATE TABLE signing_key (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    public_key TEXT NOT NULL
) STRICT;
