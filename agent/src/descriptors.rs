//! How many files and sockets this program may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Asks for `wanted` descriptors, as far as whoever started the program allows them; returns how many there may be. systemd and shells give
/// 1,024 and allow many more, for the sake of programs that cannot count further.
pub fn ask_for(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    let more = wanted.min(hard);
    if soft >= more {
        return soft;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, more, hard) {
        Ok(()) => more,
        Err(error) => {
            log::warn!(error:%; "there may be {soft} open files and no more");
            soft
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_given_and_nothing_is_taken_away() {
        let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        assert_eq!(ask_for(1), before);
        let given = ask_for(u64::MAX);
        assert_eq!(given, hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("a limit").0, hard);
    }
}
