//! The templates, compiled, and the filters that every value passes.

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::Value;
use tinytemplate::TinyTemplate;
use tinytemplate::error::Error as TemplateError;

use pureboot_protocol::{ARGUMENT_ALPHABET, BootId, Platform};

use crate::{BaseUrl, Context, LintError, Script, check_script};

macro_rules! sources {
    ($($name:literal: $file:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../ipxe/", $file)))),+]
    };
}

/// Every template by its name, as its author wrote it.
const SOURCES: [(&str, &str); 25] = sources! {
    "head": "part/head.ipxe",
    "ask": "part/ask.ipxe",
    "leave": "part/leave.ipxe",
    "retry": "part/retry.ipxe",
    "wait": "part/wait.ipxe",
    "tired": "part/tired.ipxe",
    "autoexec": "autoexec.ipxe",
    "unknown": "unknown.ipxe",
    "discovered": "discovered.ipxe",
    "install": "install.ipxe",
    "chain": "chain.ipxe",
    "sanboot": "sanboot.ipxe",
    "foreign": "foreign.ipxe",
    "pending": "pending.ipxe",
    "installing": "installing.ipxe",
    "install_failed": "install_failed.ipxe",
    "local": "local.ipxe",
    "disputed": "disputed.ipxe",
    "retired": "retired.ipxe",
    "elsewhere": "elsewhere.ipxe",
    "guest": "guest.ipxe",
    "turned_away": "turned_away.ipxe",
    "hold": "hold.ipxe",
    "refused": "refused.ipxe",
    "error": "error.ipxe",
};

/// Characters that mean nothing to iPXE wherever they stand, besides letters and digits.
const TEXT_ALPHABET: &str = " ._:/-";
/// What the URLs that we build hold besides letters and digits.
const URL_ALPHABET: &str = "._:/-+@~=[]";

/// A template that cannot be used. The agent does not start with one.
#[derive(Debug, thiserror::Error)]
#[error("template {name} does not compile: {cause}")]
pub struct CompileError {
    name: &'static str,
    cause: TemplateError,
}

/// Why there is no script. The machine gets the error script, the log gets this text.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A value could change the meaning of the script, or the template does not fit its values.
    #[error("template {name} cannot be filled in: {cause}")]
    Template {
        /// The template.
        name: &'static str,
        /// What the template engine says.
        cause: TemplateError,
    },
    /// The script was made and is not fit to be sent.
    #[error(transparent)]
    Lint(#[from] LintError),
}

/// All scripts, ready to be filled in.
pub struct Scripts {
    templates: TinyTemplate<'static>,
}

impl Scripts {
    /// Compiles every template.
    ///
    /// # Errors
    /// A template has a mistake.
    pub fn new() -> Result<Self, CompileError> {
        static PREPARED: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
            SOURCES.iter().map(|(name, text)| (*name, keep_settings(text))).collect()
        });
        let mut templates = TinyTemplate::new();
        templates.set_default_formatter(&emit_text);
        templates.add_formatter("url", emit_url);
        templates.add_formatter("command_line", emit_command_line);
        for (name, text) in PREPARED.iter() {
            templates.add_template(name, text).map_err(|cause| CompileError { name, cause })?;
        }
        Ok(Self { templates })
    }

    /// The text of `script` for one machine.
    ///
    /// # Errors
    /// A value holds what a script cannot carry, or the whole is refused by [`check_script`].
    pub fn render(&self, context: &Context, script: &Script) -> Result<String, RenderError> {
        let name = script.template();
        let page = Page { common: Common::from(context), script };
        let text = self
            .templates
            .render(name, &page)
            .map_err(|cause| RenderError::Template { name, cause })?;
        check_script(&text, &context.base)?;
        Ok(text)
    }
}

/// What templates see.
#[derive(Serialize)]
struct Page<'a> {
    common: Common<'a>,
    script: &'a Script,
}

/// [`Context`] as templates see it: they cannot compare, only ask.
#[derive(Serialize)]
struct Common<'a> {
    base: &'a BaseUrl,
    session: BootId,
    is_bios: bool,
    is_uefi: bool,
    mode: &'a str,
    reasons: &'a [String],
}

impl<'a> From<&'a Context> for Common<'a> {
    fn from(context: &'a Context) -> Self {
        Self {
            base: &context.base,
            session: context.session,
            is_bios: context.platform == Some(Platform::Pcbios),
            is_uefi: context.platform == Some(Platform::Efi),
            mode: &context.mode,
            reasons: &context.reasons,
        }
    }
}

/// Escapes iPXE's `${setting}`, which TinyTemplate would take for a value of its own.
fn keep_settings(source: &str) -> String {
    source.replace("${", "$\\{")
}

fn emit_text(value: &Value, output: &mut String) -> Result<(), TemplateError> {
    emit_checked(value, output, "a text", TEXT_ALPHABET)
}

fn emit_url(value: &Value, output: &mut String) -> Result<(), TemplateError> {
    emit_checked(value, output, "a URL", URL_ALPHABET)
}

fn emit_command_line(value: &Value, output: &mut String) -> Result<(), TemplateError> {
    let is_separator = |word: &str| word == ";";
    if value.as_str().is_some_and(|text| text.split(' ').any(is_separator)) {
        let msg = "a command line holds a ';' of its own, which begins a new command".to_owned();
        return Err(TemplateError::GenericError { msg });
    }
    emit_checked(value, output, "a command line", &format!(" {ARGUMENT_ALPHABET}"))
}

/// Prints a text whose characters are letters, digits or in `alphabet`; refuses every other value.
fn emit_checked(
    value: &Value,
    output: &mut String,
    kind: &str,
    alphabet: &str,
) -> Result<(), TemplateError> {
    let error = |msg| Err(TemplateError::GenericError { msg });
    let Value::String(text) = value else {
        return error(format!("{kind} was expected"));
    };
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || alphabet.contains(*c);
    match text.chars().find(|c| !is_allowed(c)) {
        Some(c) => error(format!("{kind} holds {c:?}, which a script cannot carry there")),
        None => {
            output.push_str(text);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
