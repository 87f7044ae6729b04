-- What agents saw of boots, as they hand it over: the latest of each machine at each site. `number` is the order in which
-- sessions first came; `mac` is null while nothing has named the machine.
CREATE TABLE boot_sessions (
    number INTEGER PRIMARY KEY,
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    mac TEXT,
    received_at INTEGER NOT NULL,
    session TEXT NOT NULL,
    UNIQUE (site_id, id)
) STRICT;
CREATE INDEX boot_sessions_by_site ON boot_sessions (site_id, number);
CREATE INDEX boot_sessions_by_mac ON boot_sessions (mac, site_id, number);
CREATE INDEX boot_sessions_by_age ON boot_sessions (received_at);

-- Every version of a workflow that is kept; the one in use is in `workflows` too.
CREATE TABLE workflow_versions (
    workflow_id TEXT NOT NULL REFERENCES workflows (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    boot TEXT NOT NULL,
    timeout_minutes INTEGER NOT NULL,
    templates TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (workflow_id, version)
) STRICT, WITHOUT ROWID;
INSERT INTO workflow_versions (workflow_id, version, name, description, boot, timeout_minutes, templates, updated_at)
SELECT id, version, name, description, boot, timeout_minutes, templates, updated_at FROM workflows;

-- Conflicts are forgotten by when they ended.
CREATE INDEX conflicts_by_end ON conflicts (resolved_at) WHERE resolution IS NOT NULL;
