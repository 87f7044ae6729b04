//! Verified content, by hash on disk and by name in an index.
