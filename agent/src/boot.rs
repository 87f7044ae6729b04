//! From the question of a machine to its script.
