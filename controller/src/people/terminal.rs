//! Where a password comes from: a file, a pipe, or a terminal that does not show it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use pureboot_protocol::Secret;

/// The longest line that is read, in bytes; longer than any password.
const LINE_LEN_MAX: u64 = 4_096;

/// The password for `name`.
///
/// # Errors
/// The file cannot be read, or the two answers at the terminal differ.
pub(super) fn password(name: &str, file: Option<&Path>) -> anyhow::Result<Secret> {
    if let Some(path) = file {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        return first_line(file).with_context(|| format!("cannot read {}", path.display()));
    }
    if !io::stdin().is_terminal() {
        return first_line(io::stdin()).context("cannot read the password from stdin");
    }
    let silence = Silence::begin().context("cannot keep the terminal from showing the password")?;
    let password = ask(&format!("password for {name}: "))?;
    let again = ask("the same again: ")?;
    drop(silence);
    ensure!(password == again, "the two are not the same; nothing has been changed");
    Ok(password)
}

fn ask(question: &str) -> anyhow::Result<Secret> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question}").and_then(|()| stderr.flush()).context("cannot ask")?;
    let answer = first_line(io::stdin());
    // The key that ended the line was not shown either.
    writeln!(stderr).context("cannot ask")?;
    answer.context("cannot read the answer")
}

fn first_line(from: impl Read) -> anyhow::Result<Secret> {
    let mut line = String::new();
    BufReader::new(from.take(LINE_LEN_MAX)).read_line(&mut line)?;
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        bail!("there is no password in it");
    }
    Ok(Secret::new(line.to_owned()))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> nix::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nobody is left to tell.
        _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_as_it_is() {
        for (text, password) in [
            ("secret word\n", Some("secret word")),
            ("secret word\r\nsecond\n", Some("secret word")),
            (" spaces stay ", Some(" spaces stay ")),
            ("", None),
            ("\nsecond\n", None),
        ] {
            let read = first_line(text.as_bytes()).ok();
            assert_eq!(read.as_ref().map(Secret::reveal), password, "{text:?}");
        }
        assert!(first_line(&b"\xff\xfe"[..]).is_err());
    }
}
