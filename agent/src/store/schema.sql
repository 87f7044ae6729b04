-- Version 1. Ids, addresses and hashes are text as on the wire; times are milliseconds since 1970 in UTC.

-- The life of this database.
CREATE TABLE meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch    TEXT NOT NULL
) STRICT;

-- Who the agent is and which settings it obeys, as of its registration or a later heartbeat.
CREATE TABLE identity (
    only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
    agent_id       TEXT NOT NULL,
    config         TEXT NOT NULL,
    config_version INTEGER NOT NULL,
    registered_at  INTEGER NOT NULL
) STRICT;

-- The machines of the site. `record` is the controller's; none, or one of version 0, for a machine that only the site knows.
CREATE TABLE nodes (
    number                INTEGER PRIMARY KEY,
    mac                   TEXT NOT NULL UNIQUE,
    node_id               TEXT NOT NULL,
    facts                 TEXT NOT NULL,
    record                TEXT,
    fetched_at            INTEGER,
    last_seen_at          INTEGER,
    -- The version of the record whose installation was last handed out (DESIGN section 5, `once`).
    install_given_version INTEGER,
    -- The change by which the site last moved the node's state; the controller's state is older until it is acknowledged.
    state_seq             INTEGER,
    CHECK ((record IS NULL) = (fetched_at IS NULL))
) STRICT;
CREATE INDEX nodes_node_id ON nodes (node_id);
-- Unused since these machines are counted in memory. It stays: a database whose tables differ from these counts as damaged.
CREATE INDEX nodes_unknown ON nodes (number) WHERE record IS NULL;

-- Which machine a boot session belongs to.
CREATE TABLE sessions (
    number     INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    mac        TEXT NOT NULL,
    started_at INTEGER NOT NULL
) STRICT;

-- Changes that the controller has not acknowledged. AUTOINCREMENT: a number is given once in an epoch, and since its counter
-- is part of the transaction, none is left out.
CREATE TABLE outbox (
    seq                INTEGER PRIMARY KEY AUTOINCREMENT,
    id                 TEXT NOT NULL UNIQUE,
    -- Who made it; with the columns node, session and payload it makes the id, so that a damaged row is known as such.
    agent              TEXT NOT NULL,
    node               TEXT NOT NULL,
    session            TEXT,
    payload            TEXT NOT NULL,
    base_version       INTEGER,
    prev_seq_same_node INTEGER,
    at                 INTEGER NOT NULL,
    is_clock_synced    INTEGER NOT NULL CHECK (is_clock_synced IN (0, 1)),
    is_event           INTEGER NOT NULL CHECK (is_event IN (0, 1))
) STRICT;
CREATE INDEX outbox_node ON outbox (node, seq);

-- What the outbox holds, kept by triggers: counting it for each change would take longer than writing the change.
CREATE TABLE outbox_use (
    is_event   INTEGER PRIMARY KEY CHECK (is_event IN (0, 1)),
    row_count  INTEGER NOT NULL CHECK (row_count >= 0),
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;
INSERT INTO outbox_use (is_event, row_count, size_bytes) VALUES (0, 0, 0), (1, 0, 0);
CREATE TRIGGER outbox_grows AFTER INSERT ON outbox BEGIN
    UPDATE outbox_use SET row_count = row_count + 1, size_bytes = size_bytes + length(CAST(new.payload AS BLOB))
    WHERE is_event = new.is_event;
END;
CREATE TRIGGER outbox_shrinks AFTER DELETE ON outbox BEGIN
    UPDATE outbox_use SET row_count = row_count - 1, size_bytes = size_bytes - length(CAST(old.payload AS BLOB))
    WHERE is_event = old.is_event;
END;
