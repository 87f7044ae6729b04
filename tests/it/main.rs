//! Tests that start the real programs.

fn main() {}
