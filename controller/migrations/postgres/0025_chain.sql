-- The link of the last change in an outbox's chain; null where nobody has computed it yet.
ALTER TABLE outboxes ADD COLUMN hash TEXT;

-- Which life of an agent the controller listens to, which one that follows, and since when; and which life it took the place of.
ALTER TABLE agents ADD COLUMN instance TEXT;
ALTER TABLE agents ADD COLUMN instance_succeeds TEXT;
ALTER TABLE agents ADD COLUMN instance_former TEXT;
ALTER TABLE agents ADD COLUMN instance_since BIGINT;
ALTER TABLE agents ADD COLUMN instance_address TEXT;
-- Another life that was refused, and when it last was.
ALTER TABLE agents ADD COLUMN rival TEXT;
ALTER TABLE agents ADD COLUMN rival_at BIGINT;
ALTER TABLE agents ADD COLUMN rival_address TEXT;
