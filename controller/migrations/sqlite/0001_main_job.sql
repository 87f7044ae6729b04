-- Times are milliseconds since 1970-01-01T00:00:00Z; lists are JSON arrays; ids are UUID text; hashes are lower-case hexadecimal.

CREATE TABLE operator_tokens (
    hash TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sites (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    parent_id TEXT REFERENCES sites (id),
    path TEXT NOT NULL,
    depth INTEGER NOT NULL,
    agent_url TEXT,
    agent_status TEXT,
    agent_last_seen INTEGER,
    autonomy_level TEXT NOT NULL,
    conflict_resolution TEXT NOT NULL,
    cache_policy TEXT NOT NULL,
    cache_patterns TEXT NOT NULL,
    cache_max_size_gb INTEGER,
    cache_retention_days INTEGER NOT NULL,
    discovery_method TEXT NOT NULL,
    migration_policy TEXT NOT NULL,
    heartbeat_interval INTEGER NOT NULL,
    tags TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX sites_by_age ON sites (created_at, id);
CREATE INDEX sites_by_parent ON sites (parent_id);

-- One token a site: a new one ends the old by taking its row.
CREATE TABLE registration_tokens (
    site_id TEXT PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    token_id TEXT NOT NULL,
    secret_hash TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_by TEXT,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

-- One agent a site: a new registration ends the old credential by taking its row.
CREATE TABLE agents (
    site_id TEXT PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    id TEXT NOT NULL UNIQUE,
    credential_hash TEXT NOT NULL UNIQUE,
    agent_version TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    -- Seconds: the interval that the agent was last told, which may be older than the site's setting.
    heartbeat_interval INTEGER NOT NULL,
    registered_at INTEGER NOT NULL,
    heartbeat TEXT
) STRICT, WITHOUT ROWID;

-- The newest heartbeats of each site; `number` counts within the site.
CREATE TABLE heartbeats (
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    heartbeat TEXT NOT NULL,
    PRIMARY KEY (site_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE workflows (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    boot TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX workflows_by_age ON workflows (created_at, id);

-- One life of one agent's outbox.
CREATE TABLE outboxes (
    id INTEGER PRIMARY KEY,
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    epoch TEXT NOT NULL,
    acked_through INTEGER NOT NULL,
    UNIQUE (site_id, epoch)
) STRICT;

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    mac_address TEXT NOT NULL UNIQUE,
    hostname TEXT,
    ip_address TEXT,
    state TEXT NOT NULL,
    workflow_id TEXT REFERENCES workflows (id) ON DELETE SET NULL,
    vendor TEXT,
    model TEXT,
    serial_number TEXT,
    system_uuid TEXT,
    arch TEXT,
    boot_mode TEXT,
    home_site_id TEXT REFERENCES sites (id) ON DELETE SET NULL,
    tags TEXT NOT NULL,
    install_attempts INTEGER NOT NULL,
    last_install_error TEXT,
    boot_count INTEGER NOT NULL,
    last_boot_at INTEGER,
    state_changed_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_seen_at INTEGER,
    version INTEGER NOT NULL,
    -- The unbroken run of changes that ends at `version` and came from one outbox: which, and the version that it began on.
    run_outbox INTEGER REFERENCES outboxes (id) ON DELETE SET NULL,
    run_base INTEGER
) STRICT;
CREATE INDEX nodes_by_age ON nodes (created_at, id);
CREATE INDEX nodes_by_site ON nodes (home_site_id);
CREATE INDEX nodes_by_state ON nodes (state);
CREATE INDEX nodes_by_workflow ON nodes (workflow_id);
CREATE INDEX nodes_by_run ON nodes (run_outbox);

-- The ids that a site gave to machines which the controller knew already under another one.
CREATE TABLE node_aliases (
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    alias TEXT NOT NULL,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    PRIMARY KEY (site_id, alias)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_aliases_by_node ON node_aliases (node_id);

CREATE TABLE state_log (
    id INTEGER PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    comment TEXT,
    correlation_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX state_log_by_node ON state_log (node_id, id);

CREATE TABLE node_events (
    id INTEGER PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    site_id TEXT REFERENCES sites (id) ON DELETE SET NULL,
    event TEXT NOT NULL,
    boot_session TEXT,
    at INTEGER NOT NULL,
    clock TEXT NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;
CREATE INDEX node_events_by_node ON node_events (node_id, id);
CREATE INDEX node_events_by_site ON node_events (site_id);

-- Every change that a site has handed over, and what became of it. `raw` is kept where it did not take effect.
CREATE TABLE changes (
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    outbox_id INTEGER NOT NULL REFERENCES outboxes (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    node_version INTEGER,
    reason TEXT,
    raw TEXT,
    correlation_id TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (site_id, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX changes_by_place ON changes (outbox_id, seq);

-- Wishes of a site that the controller's side did not allow; the change itself is in `changes`.
CREATE TABLE conflicts (
    site_id TEXT NOT NULL,
    change_id TEXT NOT NULL,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    site_state TEXT NOT NULL,
    site_base_version INTEGER,
    site_at INTEGER NOT NULL,
    site_clock TEXT NOT NULL,
    central_state TEXT NOT NULL,
    central_version INTEGER NOT NULL,
    central_changed_at INTEGER NOT NULL,
    cause TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (site_id, change_id),
    FOREIGN KEY (site_id, change_id) REFERENCES changes (site_id, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX conflicts_by_node ON conflicts (node_id);
