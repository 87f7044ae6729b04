-- Whether an installer was handed out for what a person at the site wishes of the node, until the controller has numbered that wish; null
-- where what the record wishes is the centre's. `install_given_version` is the number of a wish of the centre since this step, and the
-- version of a record before it.
ALTER TABLE nodes ADD COLUMN own_wish_given INTEGER CHECK (own_wish_given IN (0, 1));
