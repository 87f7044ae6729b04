-- Every version of a template that is kept; `templates.version` is the one in use.
CREATE TABLE templates (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX templates_by_age ON templates (created_at, id);

CREATE TABLE template_versions (
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    description TEXT NOT NULL,
    body TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (template_id, version)
) STRICT, WITHOUT ROWID;

-- The names that the version in use includes.
CREATE TABLE template_includes (
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    PRIMARY KEY (template_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX template_includes_by_name ON template_includes (name);

-- A JSON object: name of the answer file, id of its template.
ALTER TABLE workflows ADD COLUMN templates TEXT NOT NULL DEFAULT '{}';

-- JSON objects of texts, for templates; groups hand theirs down.
ALTER TABLE nodes ADD COLUMN meta TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sites ADD COLUMN meta TEXT NOT NULL DEFAULT '{}';

-- `scope` is the id of the group or empty, because a key cannot be null. `sealed` is hexadecimal: nonce, ciphertext, tag.
CREATE TABLE secrets (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    group_id TEXT REFERENCES sites (id) ON DELETE CASCADE,
    sealed TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX secrets_by_group ON secrets (group_id);
