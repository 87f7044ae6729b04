//! What a program is like that knows the contract's words and has no engine: for `cargo xtask bench policies`.
#![expect(clippy::print_stdout, reason = "it keeps what it links")]

use pureboot_plugin_host::package::Unchecked;

fn main() {
    let bytes: Vec<u8> = std::env::args().flat_map(String::into_bytes).collect();
    println!("{}", Unchecked::parse(&bytes).is_ok());
}
