//! The centre of PureBoot.

fn main() {}
