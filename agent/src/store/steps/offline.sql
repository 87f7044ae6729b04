-- Where site and controller disagree, as the controller last told it: what waits for a person, and the latest that have ended.
CREATE TABLE conflicts (
    number   INTEGER PRIMARY KEY,
    id       TEXT NOT NULL UNIQUE,
    conflict TEXT NOT NULL,
    is_open  INTEGER NOT NULL CHECK (is_open IN (0, 1)),
    -- When the controller was asked.
    heard_at INTEGER NOT NULL
) STRICT;

-- The line to the controller when it was last lost or found again; no row before the first loss.
CREATE TABLE line (
    only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
    -- Null while the controller answers.
    offline_since  INTEGER,
    last_online_at INTEGER
) STRICT;

-- What the controller has said of a machine that is a node of another site, and when it was asked; null for all others.
ALTER TABLE nodes ADD COLUMN elsewhere TEXT;
ALTER TABLE nodes ADD COLUMN elsewhere_at INTEGER;
