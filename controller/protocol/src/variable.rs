//! Variables of a kernel command line: what an operator writes once and each machine reads with its own values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::site::words;
use crate::text::COMMAND_LINE_LEN_MAX;
use crate::{CommandLine, CommandLineError};

words! {
    /// What may stand between `{{` and `}}` in a command line.
    Variable {
        /// The node's id.
        NodeId = "node.id",
        /// The address of its boot interface.
        NodeMacAddress = "node.mac_address",
        /// Its name.
        NodeHostname = "node.hostname",
        /// Its SMBIOS serial number.
        NodeSerialNumber = "node.serial_number",
        /// Its SMBIOS system UUID.
        NodeSystemUuid = "node.system_uuid",
        /// Its SMBIOS manufacturer.
        NodeVendor = "node.vendor",
        /// Its SMBIOS product name.
        NodeModel = "node.model",
        /// The processor that its boot loader was built for.
        NodeArch = "node.arch",
        /// `bios` or `uefi`.
        NodeBootMode = "node.boot_mode",
        /// The workflow's id.
        WorkflowId = "workflow.id",
        /// The workflow's name.
        WorkflowName = "workflow.name",
        /// Where the machine reaches the agent: `http://192.0.2.1:8080`.
        ServerUrl = "server.url",
        /// The boot session, which URLs of answer files name.
        BootId = "boot.id",
    }
}

const OPEN: &str = "{{";
const CLOSE: &str = "}}";

/// What a value may hold besides letters and digits. No space and no `=`: a value is a part of one argument, whatever a machine says
/// of itself.
const VALUE_ALPHABET: &str = "._:/-[]";

/// A kernel command line with variables, such as `hostname={{ node.hostname }} quiet`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct CommandLineTemplate(String);

/// Why a text cannot be a command line with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLineTemplateError {
    /// The text beside the variables.
    Line(CommandLineError),
    /// `{{` without `}}`.
    Open,
    /// There is no such variable.
    Unknown(String),
}

impl fmt::Display for CommandLineTemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(error) => fmt::Display::fmt(error, f),
            Self::Open => f.write_str("the command line has a '{{' without its '}}'"),
            Self::Unknown(name) => {
                let known: Vec<_> = Variable::ALL.iter().map(|known| known.as_str()).collect();
                write!(
                    f,
                    "the command line names {name:?}, which is no variable; known are {}",
                    known.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for CommandLineTemplateError {}

/// Why a machine gets no command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FillError {
    /// The machine has no value for a variable.
    Missing(Variable),
    /// The values make the line one that cannot be sent.
    Line(CommandLineError),
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(variable) => write!(
                f,
                "the workflow's command line names {variable} and this machine has none - set it or take it out of the workflow"
            ),
            Self::Line(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for FillError {}

/// A stretch of a command line.
enum Part<'a> {
    Text(&'a str),
    Variable(Variable),
}

impl CommandLineTemplate {
    /// The text, with its variables.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The command line for one machine, whose values `value` tells. Characters that an argument cannot carry become `_` in them.
    ///
    /// # Errors
    /// The machine has no value for a variable, or the whole is no command line.
    pub fn fill(
        &self,
        value: impl Fn(Variable) -> Option<String>,
    ) -> Result<CommandLine, FillError> {
        let mut line = String::new();
        for part in parts(&self.0) {
            match part {
                Ok(Part::Text(text)) => line.push_str(text),
                Ok(Part::Variable(variable)) => {
                    let value = value(variable).filter(|value| !value.trim().is_empty());
                    let value = value.ok_or(FillError::Missing(variable))?;
                    line.extend(value.trim().chars().map(clean));
                }
                Err(_) => unreachable!("a template is read before it is one"),
            }
        }
        CommandLine::try_from(line).map_err(FillError::Line)
    }
}

fn clean(c: char) -> char {
    if c.is_ascii_alphanumeric() || VALUE_ALPHABET.contains(c) { c } else { '_' }
}

/// The stretches of `text`, in order.
fn parts(text: &str) -> impl Iterator<Item = Result<Part<'_>, CommandLineTemplateError>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if let Some(behind) = rest.strip_prefix(OPEN) {
            let Some((name, behind)) = behind.split_once(CLOSE) else {
                rest = "";
                return Some(Err(CommandLineTemplateError::Open));
            };
            rest = behind;
            let unknown =
                || CommandLineTemplateError::Unknown(name.trim().chars().take(64).collect());
            return Some(name.trim().parse().map(Part::Variable).map_err(|_| unknown()));
        }
        if rest.is_empty() {
            return None;
        }
        let (text, behind) = rest.split_at(rest.find(OPEN).unwrap_or(rest.len()));
        rest = behind;
        Some(Ok(Part::Text(text)))
    })
}

impl TryFrom<String> for CommandLineTemplate {
    type Error = CommandLineTemplateError;

    fn try_from(text: String) -> Result<Self, CommandLineTemplateError> {
        use CommandLineTemplateError::Line;
        if text.len() > COMMAND_LINE_LEN_MAX {
            return Err(Line(CommandLineError::Long(text.len())));
        }
        // A letter in each variable's place makes a line of the kind that machines get.
        let mut line = String::new();
        for part in parts(&text) {
            match part? {
                Part::Text(text) => line.push_str(text),
                Part::Variable(_) => line.push('x'),
            }
        }
        CommandLine::try_from(line).map_err(Line)?;
        Ok(Self(text))
    }
}

impl From<CommandLineTemplate> for String {
    fn from(template: CommandLineTemplate) -> String {
        template.0
    }
}

impl From<CommandLine> for CommandLineTemplate {
    fn from(line: CommandLine) -> Self {
        Self(line.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Result<CommandLineTemplate, CommandLineTemplateError> {
        text.to_owned().try_into()
    }

    fn fill(text: &str, value: &str) -> Result<String, FillError> {
        let value = |_| (!value.is_empty()).then(|| value.to_owned());
        template(text).expect("a template").fill(value).map(String::from)
    }

    #[test]
    fn each_machine_reads_its_own_values() {
        let text = "hostname={{ node.hostname }} url={{server.url}} quiet";
        assert_eq!(
            fill(text, "http://[2001:db8::1]:80").as_deref(),
            Ok("hostname=http://[2001:db8::1]:80 url=http://[2001:db8::1]:80 quiet")
        );
        assert_eq!(fill("quiet", "").as_deref(), Ok("quiet"));
        assert_eq!(fill(text, ""), Err(FillError::Missing(Variable::NodeHostname)));
    }

    #[test]
    fn a_variable_that_nobody_knows_is_refused_with_those_that_are() {
        let error = template("a={{ node.hostnme }}").expect_err("unknown").to_string();
        assert!(error.contains("\"node.hostnme\"") && error.contains("node.hostname,"), "{error}");
        assert_eq!(template("a={{ node.id"), Err(CommandLineTemplateError::Open));
        for text in ["{{}}", "{{ node.id | upper }}", "{{ ${net0/mac} }}", "{{ {{ node.id }} }}"] {
            assert!(matches!(template(text), Err(CommandLineTemplateError::Unknown(_))), "{text}");
        }
        for text in ["{% if x %}", "a}} b", "${node.id}", "{node.id}", "{{ node.id }} ; shell"] {
            assert!(matches!(template(text), Err(CommandLineTemplateError::Line(_))), "{text}");
        }
    }

    #[test]
    fn a_line_that_its_values_make_too_long_is_not_cut() {
        let text = format!("{} {{{{ node.model }}}}", "a".repeat(1_700));
        assert_eq!(
            fill(&text, &"b".repeat(128)),
            Err(FillError::Line(CommandLineError::Long(1_829)))
        );
    }

    proptest! {
        #[test]
        fn h20_no_value_adds_an_argument(value in "[ -~\\n]{0,60}|\\PC{0,40}") {
            if let Ok(line) = fill("a=x{{ node.serial_number }} b", &value) {
                prop_assert_eq!(line.split(' ').count(), 2);
                prop_assert_eq!(line.matches('=').count(), 1);
            }
        }
    }
}
