//! Policies as they are run: guests in the text format of WebAssembly (`plugins/cases`), compiled here, packed, signed and called.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of this is tests, which end where something is not as it should be and say what calls cost"
)]

mod compiler;
mod fuzz;
mod golden;
mod guest;
mod hostile;
mod loading;
mod site;
mod wasi;
