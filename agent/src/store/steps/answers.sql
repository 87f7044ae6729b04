-- What answer files are rendered by.

-- Texts of templates by their SHA-256, each once however many files are made of it.
CREATE TABLE answer_texts (
    number INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    body   TEXT NOT NULL
) STRICT;

-- The sheet of each machine, without its secrets. Those stand beside it until the machine has been installed.
CREATE TABLE answer_sheets (
    number   INTEGER PRIMARY KEY,
    mac      TEXT NOT NULL UNIQUE,
    sheet    TEXT NOT NULL,
    secrets  TEXT,
    digest   TEXT NOT NULL,
    -- When the controller was asked for it.
    asked_at INTEGER NOT NULL
) STRICT;

-- Which texts a machine's sheet names.
CREATE TABLE answer_uses (
    number INTEGER PRIMARY KEY,
    mac    TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    UNIQUE (mac, sha256)
) STRICT;
CREATE INDEX answer_uses_by_text ON answer_uses (sha256);

-- The boot session of a machine that was last given an installer: the one that may have secrets.
CREATE TABLE answer_grants (
    number     INTEGER PRIMARY KEY,
    mac        TEXT NOT NULL UNIQUE,
    session    TEXT NOT NULL,
    address    TEXT NOT NULL,
    granted_at INTEGER NOT NULL
) STRICT;

-- Which files with secrets such a session has been given whole, written before they are sent.
CREATE TABLE answer_givings (
    number   INTEGER PRIMARY KEY,
    session  TEXT NOT NULL,
    file     TEXT NOT NULL,
    first_at INTEGER NOT NULL,
    times    INTEGER NOT NULL,
    UNIQUE (session, file)
) STRICT;
