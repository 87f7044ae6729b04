-- People: `name_key` is the name in lower case, by which it is unique and found; `password` is a PHC string of argon2id.
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    role TEXT NOT NULL,
    disabled_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_login_at INTEGER
) STRICT;
CREATE INDEX users_by_age ON users (created_at, id);

CREATE TABLE sessions (
    hash TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    address TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_user ON sessions (user_id, last_used_at);

-- Null as owner: made on the controller's own machine. Null as scopes: all that the role may do. Null as end: none.
CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    scopes TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE INDEX api_tokens_by_age ON api_tokens (created_at, id);
CREATE INDEX api_tokens_by_user ON api_tokens (user_id);

-- The operators' tokens of earlier versions could do everything, and still can.
INSERT INTO api_tokens (id, hash, name, role, created_at)
SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8'
        || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))),
    hash, 'operator-token', 'admin', created_at
FROM operator_tokens;
DROP TABLE operator_tokens;

-- `next_credential_hash` is announced under the credential that it takes the place of at its first use.
ALTER TABLE agents ADD COLUMN next_credential_hash TEXT;
ALTER TABLE agents ADD COLUMN revoked_at INTEGER;
CREATE UNIQUE INDEX agents_by_next ON agents (next_credential_hash);

-- Who did what to what, when and from where. `entry` names the request that a row belongs to, so that a row which was written
-- with the effect can be completed with the answer.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    entry TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id TEXT,
    actor_name TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT,
    status INTEGER,
    address TEXT,
    correlation_id TEXT NOT NULL,
    detail TEXT
) STRICT;
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_target ON audit (target, id);
