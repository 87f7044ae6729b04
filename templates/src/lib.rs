//! What a booting machine reads, and the only way to fill it in.
//!
//! The texts are TinyTemplate files in `ipxe/`, compiled into the program and read once, by [`Scripts::new`]. A [`Script`]
//! carries what its template names, so no variable can be missing; a value that could change a script's meaning is an error
//! and never printed; and no text leaves [`Scripts::render`] that [`check_script`] does not accept.
//!
//! Answer files are another matter: they are operators' own, written in Jinja, and rendered by [`answer`].
//!
//! What a machine boots, and why, is decided elsewhere.

pub mod answer;

mod context;
mod lint;
mod render;

pub use context::{BaseUrl, BaseUrlError, Context, DiskImage, NetworkDisk, Script};
pub use lint::{LintError, SCRIPT_LEN_MAX, check_script};
pub use render::{CompileError, RenderError, Scripts};
