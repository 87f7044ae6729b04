-- Orders to the agents of sites. An agent that was given one has it until `leased_until`; then it is given again, until its
-- result is there. Nobody has one whose lease is 0.
CREATE TABLE commands (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    command TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    leased_until INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    detail TEXT
) STRICT;
CREATE INDEX commands_by_site ON commands (site_id, number);
-- What every heartbeat looks into: it is empty for most sites.
CREATE INDEX commands_open ON commands (site_id, leased_until) WHERE finished_at IS NULL;

-- What a machine's own system is to be told to do.
ALTER TABLE nodes ADD COLUMN pending_command TEXT;
