//! What is asked of whoever sits at the terminal: passwords and secrets, which are not shown, and whether to go on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use pureboot_protocol::Secret;

/// The longest line that is read, in bytes; longer than any password.
const LINE_LEN_MAX: u64 = 4_096;
/// The longest secret that is read, in bytes; longer than the controller takes, which says so.
const SECRET_LEN_MAX: u64 = 64 << 10;

/// The password for `name`.
///
/// # Errors
/// The file cannot be read, or the two answers at the terminal differ.
pub(crate) fn password(name: &str, file: Option<&Path>) -> anyhow::Result<Secret> {
    if let Some(path) = file {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        return first_line(file).with_context(|| format!("cannot read {}", path.display()));
    }
    if !io::stdin().is_terminal() {
        return first_line(io::stdin()).context("cannot read the password from stdin");
    }
    ask_twice(&format!("password for {name}: "))
}

/// The value for the secret `name`: the whole text of a file or a pipe but for the line feed at its end, because a key has many
/// lines; or a line that is typed.
///
/// # Errors
/// The file cannot be read, holds nothing or something else than text, or the two answers at the terminal differ.
pub(crate) fn secret(name: &str, file: Option<&Path>) -> anyhow::Result<Secret> {
    if let Some(path) = file {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        return whole(file).with_context(|| format!("cannot read {}", path.display()));
    }
    if !io::stdin().is_terminal() {
        return whole(io::stdin()).context("cannot read the secret from stdin");
    }
    ask_twice(&format!("value of {name}: "))
}

/// Whether somebody at the terminal says yes to `question`; none where there is no terminal.
///
/// # Errors
/// The terminal does not answer.
pub(crate) fn agrees(question: &str) -> anyhow::Result<Option<bool>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("cannot ask")?;
    let mut line = String::new();
    BufReader::new(io::stdin().take(LINE_LEN_MAX))
        .read_line(&mut line)
        .context("cannot read the answer")?;
    Ok(Some(matches!(line.trim(), "y" | "Y" | "yes")))
}

fn ask_twice(question: &str) -> anyhow::Result<Secret> {
    let silence =
        Silence::begin().context("cannot keep the terminal from showing what is typed")?;
    let secret = ask(question)?;
    let again = ask("the same again: ")?;
    drop(silence);
    ensure!(secret == again, "the two are not the same; nothing has been changed");
    Ok(secret)
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

fn whole(from: impl Read) -> anyhow::Result<Secret> {
    let mut text = String::new();
    from.take(SECRET_LEN_MAX).read_to_string(&mut text)?;
    let text = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(&text);
    ensure!(!text.is_empty(), "there is no secret in it");
    Ok(Secret::new(text.to_owned()))
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

    #[test]
    fn a_secret_is_the_whole_text_but_for_the_last_line_feed() {
        for (text, secret) in [
            ("one\n", Some("one")),
            ("one\ntwo\n\n", Some("one\ntwo\n")),
            ("one\r\n", Some("one")),
            ("one", Some("one")),
            ("\n", None),
            ("", None),
        ] {
            let read = whole(text.as_bytes()).ok();
            assert_eq!(read.as_ref().map(Secret::reveal), secret, "{text:?}");
        }
    }
}
