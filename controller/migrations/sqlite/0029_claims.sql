-- Nodes of one site that were seen at another. `outcome` is null while a claim waits.
CREATE TABLE node_claims (
    id TEXT PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    from_site_id TEXT NOT NULL,
    to_site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    claimed_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    times INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    outcome TEXT,
    decided_by TEXT,
    decided_name TEXT,
    comment TEXT,
    -- The node's version after it, where it was moved.
    node_version INTEGER,
    decided_at INTEGER
) STRICT;
CREATE UNIQUE INDEX node_claims_open ON node_claims (node_id, to_site_id) WHERE outcome IS NULL;
CREATE INDEX node_claims_by_age ON node_claims (claimed_at, id);
CREATE INDEX node_claims_by_site ON node_claims (to_site_id, claimed_at);
CREATE INDEX node_claims_by_end ON node_claims (decided_at) WHERE outcome IS NOT NULL;

-- What a node of another site boots here until it is moved: pending, normal or refuse.
ALTER TABLE sites ADD COLUMN foreign_nodes TEXT NOT NULL DEFAULT 'pending';
