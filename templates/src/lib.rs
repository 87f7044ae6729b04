//! What a booting machine reads, and the only way to fill it in.
