-- The state that the node of a conflict had at the version that the site knew; null where the controller does not know it.
ALTER TABLE conflicts ADD COLUMN base_state TEXT;

-- Which attempt at a request has its key, and how many transactions of it were committed.
ALTER TABLE repeats ADD COLUMN attempt TEXT NOT NULL DEFAULT '';
ALTER TABLE repeats ADD COLUMN effects INTEGER NOT NULL DEFAULT 0;
