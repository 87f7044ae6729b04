//! The centre of PureBoot.
