-- Bytes by their hash; where they are kept is the object store's business. `chunks` are the SHA-256 of each MiB, 32 bytes each.
CREATE TABLE objects (
    sha256 TEXT COLLATE "C" PRIMARY KEY,
    size_bytes BIGINT NOT NULL,
    location TEXT COLLATE "C" NOT NULL UNIQUE,
    chunks BYTEA NOT NULL,
    -- Null where there is one chunk or none.
    chunks_sha256 TEXT COLLATE "C",
    -- Since when no name means it; null while one does.
    unreferenced_at BIGINT
);
CREATE INDEX objects_unreferenced ON objects (unreferenced_at) WHERE unreferenced_at IS NOT NULL;

-- The names, each with the bytes that it means now.
CREATE TABLE content (
    category TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    sha256 TEXT COLLATE "C" NOT NULL REFERENCES objects (sha256),
    updated_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (category, path)
);
CREATE INDEX content_by_object ON content (sha256);

-- What a site is to hold beside what it needs anyway; a name that means nothing for now keeps its place.
CREATE TABLE assigned_content (
    site_id TEXT COLLATE "C" NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    category TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (site_id, category, path)
);

-- The manifest that each site was given last.
CREATE TABLE manifests (
    site_id TEXT COLLATE "C" PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    entries_sha256 TEXT COLLATE "C" NOT NULL,
    payload TEXT COLLATE "C" NOT NULL,
    issued_at BIGINT NOT NULL
);

-- The key that agents have pinned: its public half only, so that a controller with another key is noticed when it starts.
CREATE TABLE signing_key (
    only_row BIGINT PRIMARY KEY CHECK (only_row = 1),
    public_key TEXT COLLATE "C" NOT NULL
);
