-- Every version of a template that is kept; `templates.version` is the one in use.
CREATE TABLE templates (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE INDEX templates_by_age ON templates (created_at, id);

CREATE TABLE template_versions (
    template_id TEXT COLLATE "C" NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    description TEXT NOT NULL,
    body TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (template_id, version)
);

-- The names that the version in use includes.
CREATE TABLE template_includes (
    template_id TEXT COLLATE "C" NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (template_id, name)
);
CREATE INDEX template_includes_by_name ON template_includes (name);

-- A JSON object: name of the answer file, id of its template.
ALTER TABLE workflows ADD COLUMN templates TEXT NOT NULL DEFAULT '{}';

-- JSON objects of texts, for templates; groups hand theirs down.
ALTER TABLE nodes ADD COLUMN meta TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sites ADD COLUMN meta TEXT NOT NULL DEFAULT '{}';

-- `scope` is the id of the group or empty, because a key cannot be null. `sealed` is hexadecimal: nonce, ciphertext, tag.
CREATE TABLE secrets (
    scope TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    group_id TEXT REFERENCES sites (id) ON DELETE CASCADE,
    sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (scope, name)
);
CREATE INDEX secrets_by_group ON secrets (group_id);
