-- The latest heartbeat is the last one of the history, and no longer in a second place.
ALTER TABLE agents ADD COLUMN beats_before INTEGER NOT NULL DEFAULT 0;
UPDATE agents SET beats_before = (SELECT coalesce(max(number), 0) FROM heartbeats WHERE heartbeats.site_id = agents.site_id)
WHERE heartbeat IS NULL;
ALTER TABLE agents DROP COLUMN heartbeat;
