-- Which database this is, by which the place of its content is marked; and the hash of the key that its secrets are sealed with.
CREATE TABLE installation (
    only_row BIGINT PRIMARY KEY CHECK (only_row = 1),
    id TEXT COLLATE "C" NOT NULL,
    secrets_key_hash TEXT COLLATE "C",
    -- When it was last brought back from a backup.
    restored_at BIGINT
);

-- Whether a restore has taken the outbox back, so that its agent may go on behind changes that are lost.
ALTER TABLE outboxes ADD COLUMN rewound BOOLEAN NOT NULL DEFAULT FALSE;
