-- Site policies by name. `current_version` is what sites are given that are not held to another; a roll-back swaps it with the other.
CREATE TABLE plugins (
    name TEXT COLLATE "C" PRIMARY KEY,
    current_version TEXT NOT NULL,
    previous_version TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Versions that were uploaded. Their bundles and packages are content of the category `plugins`.
CREATE TABLE plugin_versions (
    plugin TEXT COLLATE "C" NOT NULL REFERENCES plugins (name) ON DELETE CASCADE,
    version TEXT COLLATE "C" NOT NULL,
    -- SHA-256 of the component.
    wasm TEXT NOT NULL,
    wasm_bytes BIGINT NOT NULL,
    -- JSON: what the author says of it.
    description TEXT NOT NULL,
    -- JSON: what came of each fixture.
    fixtures TEXT NOT NULL,
    uploaded_at BIGINT NOT NULL,
    PRIMARY KEY (plugin, version)
);
CREATE INDEX plugin_versions_by_age ON plugin_versions (plugin, uploaded_at, version);

-- Where policies are used. `place` is the id of a site, for it and the sites below, or empty, for every site; the nearest wins.
CREATE TABLE plugin_assignments (
    plugin TEXT COLLATE "C" NOT NULL REFERENCES plugins (name),
    place TEXT COLLATE "C" NOT NULL,
    site_id TEXT REFERENCES sites (id) ON DELETE CASCADE,
    -- Lower ones are asked first.
    position BIGINT NOT NULL,
    -- Null: the current version, whatever that comes to be.
    version TEXT,
    mode TEXT NOT NULL,
    on_failure TEXT NOT NULL,
    -- JSON: a list of words, and an object of texts.
    grants TEXT NOT NULL,
    settings TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (plugin, place)
);
CREATE INDEX plugin_assignments_by_place ON plugin_assignments (place);
CREATE INDEX plugin_assignments_by_site ON plugin_assignments (site_id);

-- What the agent's policies have to be compiled for; null where it runs none.
ALTER TABLE agents ADD COLUMN engine TEXT;
