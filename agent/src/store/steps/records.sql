-- How far the site follows the controller's changes of its nodes; no row before the first answer.
CREATE TABLE feed (
    only_row      INTEGER PRIMARY KEY CHECK (only_row = 1),
    since_version INTEGER NOT NULL
) STRICT;

-- Whether the controller is to be asked about this very node: its record may not be the controller's last word.
ALTER TABLE nodes ADD COLUMN is_due INTEGER NOT NULL DEFAULT 0 CHECK (is_due IN (0, 1));
