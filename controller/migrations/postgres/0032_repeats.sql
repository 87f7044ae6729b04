-- What was asked for with an Idempotency-Key, and how it was answered. `status` is null while it is being done; `body` is null where
-- the answer is not kept.
CREATE TABLE repeats (
    caller TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    -- The SHA-256 of the request.
    digest TEXT NOT NULL,
    begun_at BIGINT NOT NULL,
    status BIGINT,
    body TEXT,
    PRIMARY KEY (caller, key)
);
CREATE INDEX repeats_by_age ON repeats (begun_at);
