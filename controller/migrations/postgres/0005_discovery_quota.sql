-- Whether nobody but sites has had a hand in a node: what counts against the quota of unknown machines.
ALTER TABLE nodes ADD COLUMN only_sites BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE nodes SET only_sites = TRUE WHERE run_base = 0;
CREATE INDEX nodes_unknown ON nodes (home_site_id) WHERE only_sites AND state IN ('discovered', 'pending');
