//! Which release this very program is.

use std::hint::black_box;
use std::sync::LazyLock;

use pureboot_protocol::{ProgramVersion, ReleaseMark, Target};

/// Room for a longer version, so that a copy of this program can be made another one (as the tests do).
macro_rules! mark {
    ($target:literal) => {
        concat!(
            "pureboot-agent release: ",
            env!("CARGO_PKG_VERSION"),
            " ",
            $target,
            ";                "
        )
    };
}

/// What [`ReleaseMark::find`] finds.
#[cfg(target_arch = "x86_64")]
static MARK: &str = mark!("x86_64");
#[cfg(target_arch = "aarch64")]
static MARK: &str = mark!("aarch64");
#[cfg(target_arch = "arm")]
static MARK: &str = mark!("armv7");
#[cfg(target_arch = "x86")]
static MARK: &str = mark!("i686");
#[cfg(target_arch = "riscv64")]
static MARK: &str = mark!("riscv64");

static HERE: LazyLock<ReleaseMark> = LazyLock::new(|| {
    // Read from the program's own bytes, and not known to the compiler: one place says what this is.
    ReleaseMark::parse(black_box(MARK)).expect("the mark is written as it is read")
});

/// The version of this program.
pub fn version() -> ProgramVersion {
    HERE.version
}

/// The processor that it runs on.
pub fn target() -> Target {
    HERE.target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_says_which_it_is() {
        assert_eq!(version().to_string(), env!("CARGO_PKG_VERSION"));
        let name = match std::env::consts::ARCH {
            "arm" => "armv7",
            "x86" => "i686",
            other => other,
        };
        assert_eq!(target().as_str(), name);
    }
}
