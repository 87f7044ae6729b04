//! Texts that end up in a boot script, limited to what cannot change its meaning.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest text that a machine may say about itself, in characters.
pub const FACT_LEN_MAX: usize = 128;

/// The longest kernel command line of a workflow, in bytes: the 2,048 that x86 kernels read (`COMMAND_LINE_SIZE`), less room
/// for what the agent adds.
pub const COMMAND_LINE_LEN_MAX: usize = 1_792;

/// The characters besides letters, digits and the space that an argument of an iPXE command may hold.
///
/// Absent are those that iPXE gives a meaning: `$`, `{` and `}` expand settings, `|` and `&` chain commands, `#` begins a
/// comment; and the backslash, which ends no line but invites the belief.
pub const ARGUMENT_ALPHABET: &str = "._:/-=,+@%~;\"'()[]*?!<>^";

/// A text that a machine said about itself: serial number, vendor, message.
///
/// Made from anything: characters outside `[A-Za-z0-9 ._:/-]` become `_`, and what is longer than [`FACT_LEN_MAX`] is cut.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(from = "String", into = "String")]
pub struct HardwareFact(String);

impl HardwareFact {
    /// The cleaned text, or none if nothing but space is left.
    pub fn new(text: &str) -> Option<Self> {
        let fact = Self::from(text.to_owned());
        (!fact.0.is_empty()).then_some(fact)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for HardwareFact {
    fn from(text: String) -> Self {
        let clean = |c: char| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | ' ' | '.' | '_' | ':' | '/' | '-' => c,
            _ => '_',
        };
        let cut: String = text.trim().chars().take(FACT_LEN_MAX).map(clean).collect();
        Self(cut.trim_end().to_owned())
    }
}

impl From<HardwareFact> for String {
    fn from(fact: HardwareFact) -> String {
        fact.0
    }
}

impl fmt::Display for HardwareFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HardwareFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A kernel command line that iPXE hands on unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct CommandLine(String);

/// Why a text cannot be a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLineError {
    /// Longer than fits.
    Long(usize),
    /// A character with a meaning in iPXE, or one that is not printable ASCII.
    Character(char),
    /// A `;` that stands alone, where iPXE begins a new command.
    Separator,
}

impl fmt::Display for CommandLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Long(len) => {
                write!(
                    f,
                    "the command line has {len} bytes, and {COMMAND_LINE_LEN_MAX} fit beside what the agent adds"
                )
            }
            Self::Character(c) => write!(
                f,
                "the command line holds {c:?}, which a boot script cannot carry (allowed: letters, digits, space, {ARGUMENT_ALPHABET})"
            ),
            Self::Separator => f.write_str(
                "the command line holds a ';' of its own, which begins a new command in iPXE",
            ),
        }
    }
}

impl std::error::Error for CommandLineError {}

impl CommandLine {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CommandLine {
    type Error = CommandLineError;

    fn try_from(text: String) -> Result<Self, CommandLineError> {
        if text.len() > COMMAND_LINE_LEN_MAX {
            return Err(CommandLineError::Long(text.len()));
        }
        let is_allowed =
            |c: char| c.is_ascii_alphanumeric() || c == ' ' || ARGUMENT_ALPHABET.contains(c);
        if let Some(c) = text.chars().find(|c| !is_allowed(*c)) {
            return Err(CommandLineError::Character(c));
        }
        if text.split(' ').any(|word| word == ";") {
            return Err(CommandLineError::Separator);
        }
        Ok(Self(text))
    }
}

impl From<CommandLine> for String {
    fn from(line: CommandLine) -> String {
        line.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn h20_a_fact_holds_nothing_that_a_script_could_obey(text in "\\PC{0,300}|[\\x00-\\x7f]{0,300}") {
            let fact = HardwareFact::from(text);
            prop_assert!(fact.as_str().len() <= FACT_LEN_MAX);
            prop_assert!(fact.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b" ._:/-".contains(&b)));
        }

        #[test]
        fn h20_a_command_line_holds_no_meaning_for_ipxe(text in "[ -~\\n]{0,60}") {
            if let Ok(line) = CommandLine::try_from(text) {
                let meaningful = ['$', '{', '}', '|', '&', '#', '\n', '\\'];
                prop_assert!(!line.as_str().contains(meaningful));
            }
        }
    }

    #[test]
    fn a_usual_command_line_passes() {
        let text =
            "ip=dhcp console=ttyS0,115200n8 ds=nocloud;s=http://10.0.0.1:8080/seed/ -- quiet";
        assert_eq!(CommandLine::try_from(text.to_owned()).map(String::from), Ok(text.to_owned()));
    }

    #[test]
    fn h20_a_command_line_that_would_chain_is_refused() {
        for (text, error) in [
            ("a\nchain http://evil", CommandLineError::Character('\n')),
            ("a ${net0/mac}", CommandLineError::Character('$')),
            ("a ; shell", CommandLineError::Separator),
        ] {
            assert_eq!(CommandLine::try_from(text.to_owned()), Err(error));
        }
        assert_eq!(CommandLine::try_from("a".repeat(1_793)), Err(CommandLineError::Long(1_793)));
    }
}
