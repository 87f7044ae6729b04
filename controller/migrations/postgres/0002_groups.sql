-- A row of `sites` is a group of nodes from here on; `is_site` tells those that are places with an agent of their own.
ALTER TABLE sites ADD COLUMN is_site BOOLEAN NOT NULL DEFAULT TRUE;
-- Null inherits from the group above.
ALTER TABLE sites ADD COLUMN default_workflow_id TEXT COLLATE "C" REFERENCES workflows (id) ON DELETE SET NULL;
ALTER TABLE sites ADD COLUMN auto_provision BOOLEAN;
CREATE INDEX sites_by_workflow ON sites (default_workflow_id);

ALTER TABLE nodes ADD COLUMN group_id TEXT COLLATE "C" REFERENCES sites (id) ON DELETE SET NULL;
CREATE INDEX nodes_by_group ON nodes (group_id);
