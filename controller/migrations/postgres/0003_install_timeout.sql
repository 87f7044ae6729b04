-- When the attempt to install that is under way, or was last, began.
ALTER TABLE nodes ADD COLUMN install_started_at BIGINT;
UPDATE nodes SET install_started_at = state_changed_at WHERE state = 'installing';

ALTER TABLE workflows ADD COLUMN timeout_minutes BIGINT NOT NULL DEFAULT 60;
