-- The version of a node that somebody else than a site made last, and when: what a site's wish is weighed against. 0: nobody has.
ALTER TABLE nodes ADD COLUMN central_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN central_at INTEGER NOT NULL DEFAULT 0;
UPDATE nodes SET central_version = coalesce(run_base, version), central_at = CASE WHEN run_base = 0 THEN 0 ELSE updated_at END;

-- The number of a node's last change, counted over all nodes. Writers wait for each other, so that numbers become visible in order.
ALTER TABLE nodes ADD COLUMN change_number INTEGER NOT NULL DEFAULT 0;
UPDATE nodes SET change_number = numbered.number
FROM (SELECT id, row_number() OVER (ORDER BY created_at, id) AS number FROM nodes) AS numbered WHERE nodes.id = numbered.id;
CREATE INDEX nodes_by_change ON nodes (change_number);
DROP INDEX nodes_by_site;
CREATE INDEX nodes_by_site_and_change ON nodes (home_site_id, change_number);

-- Nodes that were at home at a site, or at none (''), which every site may serve, and have gone to another.
CREATE TABLE node_departures (
    site_id TEXT NOT NULL,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    PRIMARY KEY (site_id, node_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX node_departures_by_number ON node_departures (site_id, number);
CREATE INDEX node_departures_by_node ON node_departures (node_id);

-- The conflict that a change is a part of, or follows.
ALTER TABLE changes ADD COLUMN conflict_id TEXT;
CREATE INDEX changes_by_conflict ON changes (conflict_id) WHERE conflict_id IS NOT NULL;

-- Disagreements with both sides. They outlive the rows that they are about; `resolution` is null until somebody decides.
DROP INDEX conflicts_by_node;
DROP INDEX conflicts_by_age;
ALTER TABLE conflicts RENAME TO conflicts_before;
CREATE TABLE conflicts (
    id TEXT PRIMARY KEY,
    site_id TEXT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    -- The controller's id for it, or the site's where the controller has no such node.
    node_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    cause TEXT NOT NULL,
    -- What the site wished last, of those of its changes that are part of this; null where it wished for no state.
    site_state TEXT,
    site_base_version INTEGER,
    site_at INTEGER NOT NULL,
    site_clock TEXT NOT NULL,
    site_changes INTEGER NOT NULL,
    -- The node as it was when the first of them came; null where there was none.
    central_state TEXT,
    central_version INTEGER,
    central_changed_at INTEGER,
    created_at INTEGER NOT NULL,
    resolution TEXT,
    -- The strategy, or 'operator'.
    resolved_by TEXT,
    resolved_name TEXT,
    -- What an operator merged.
    merged TEXT,
    -- The node's version after it.
    node_version INTEGER,
    resolved_at INTEGER
) STRICT;
INSERT INTO conflicts (id, site_id, node_id, kind, cause, site_state, site_base_version, site_at, site_clock, site_changes,
    central_state, central_version, central_changed_at, created_at)
SELECT substr(change_id, 1, 8) || '-' || substr(change_id, 9, 4) || '-' || substr(change_id, 13, 4) || '-'
        || substr(change_id, 17, 4) || '-' || substr(change_id, 21, 12),
    site_id, node_id, 'state_mismatch', cause, site_state, site_base_version, site_at, site_clock, 1,
    central_state, central_version, central_changed_at, created_at
FROM conflicts_before WHERE true
ON CONFLICT (id) DO NOTHING;
UPDATE changes SET conflict_id = substr(id, 1, 8) || '-' || substr(id, 9, 4) || '-' || substr(id, 13, 4) || '-'
    || substr(id, 17, 4) || '-' || substr(id, 21, 12)
WHERE outcome = 'conflict';
DROP TABLE conflicts_before;
CREATE INDEX conflicts_by_age ON conflicts (created_at, id);
CREATE INDEX conflicts_by_site ON conflicts (site_id, created_at, id);
CREATE INDEX conflicts_open ON conflicts (node_id, site_id) WHERE resolution IS NULL;
