-- The version at which it was last wished that a node is installed as it is to be. What was wished before this step is not known better
-- than by the version of now: a site that gave an installer for an earlier one holds the wish for the same where it looks the same.
ALTER TABLE nodes ADD COLUMN wish_version INTEGER NOT NULL DEFAULT 0;
UPDATE nodes SET wish_version = version;
