-- What operators look through: the changes of a site that had no effect, and conflicts by age.
CREATE INDEX changes_parked ON changes (site_id, received_at, id) WHERE outcome = 'parked';
CREATE INDEX conflicts_by_age ON conflicts (created_at, change_id, site_id);
