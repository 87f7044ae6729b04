-- What is acknowledged stays in the table for a while, up to `acked_through`; a controller that was brought back from a backup is sent
-- it again. Older rows are gone, up to `pruned_through`; `pruned_hash` is the link that the oldest row follows.
DROP TRIGGER outbox_shrinks;
ALTER TABLE meta ADD COLUMN acked_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN pruned_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN pruned_hash TEXT NOT NULL DEFAULT '0000000000000000000000000000000000000000000000000000000000000000';
UPDATE meta SET acked_through =
    coalesce((SELECT min(seq) - 1 FROM outbox), (SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0);
UPDATE meta SET pruned_through = acked_through;

-- The link of the change; empty in a row of an older program.
ALTER TABLE outbox ADD COLUMN hash TEXT NOT NULL DEFAULT '';
-- What became of it; null while it is not acknowledged.
ALTER TABLE outbox ADD COLUMN acked_at INTEGER;
ALTER TABLE outbox ADD COLUMN outcome TEXT;
ALTER TABLE outbox ADD COLUMN node_version INTEGER;
ALTER TABLE outbox ADD COLUMN conflict_id TEXT;
ALTER TABLE outbox ADD COLUMN reason TEXT;
CREATE INDEX outbox_set_aside ON outbox (seq) WHERE outcome IN ('parked', 'conflict');

-- What is acknowledged and kept. `outbox_use` is what is not.
CREATE TABLE ring_use (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    row_count  INTEGER NOT NULL CHECK (row_count >= 0),
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;
INSERT INTO ring_use (only_row, row_count, size_bytes) VALUES (1, 0, 0);
