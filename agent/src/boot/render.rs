//! Puts decisions into words that iPXE understands.
//!
//! Whatever goes wrong here, the machine gets a script: the error script, or a last one that needs nothing filled in.

use pureboot_protocol::{
    BootId, BootMethod, COMMAND_LINE_LEN_MAX, CommandLine, CommandLineError, CommandLineTemplate,
    ContentKey, FillError, HardwareFact, Mac, Platform, Variable, Workflow,
};
use pureboot_templates::{BaseUrl, CompileError, Context, DiskImage, RenderError, Script, Scripts};

use crate::boot::decide::{Boot, Decision, Mode, Reason};
use crate::boot::values::Values;

/// Sent when even the error script cannot be made.
const LAST_RESORT: &str =
    "#!ipxe\necho PureBoot could not make a script. The log of the agent says why.\nexit\n";

/// Where an error text is broken, in characters: what fits an 80-column console behind its prefix.
const LINE_LEN: usize = 70;

/// The most lines of an error text that a machine gets.
const LINES_MAX: usize = 8;

/// One boot attempt, as far as its scripts name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Where the machine reached the agent.
    pub base: BaseUrl,
    /// The boot session.
    pub session: BootId,
    /// What the machine runs on, as far as it said so.
    pub platform: Option<Platform>,
    /// How the site stands to its controller.
    pub mode: Mode,
    /// What a command line may name of the machine.
    pub values: Values,
}

impl Scene {
    fn context(&self, reasons: &[Reason]) -> Context {
        Context {
            base: self.base.clone(),
            session: self.session,
            platform: self.platform,
            mode: self.mode.to_string(),
            reasons: reasons.iter().map(Reason::to_string).collect(),
        }
    }
}

/// A decision that could not be put into words. The machine gets `script`, the log gets this error's text.
///
/// None of the decision's effects has happened: in particular, no installer has been given.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Unrenderable {
    /// The error script, to be sent instead.
    pub script: String,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Script(#[from] RenderError),
    #[error(transparent)]
    CommandLine(#[from] FillError),
}

/// Makes scripts.
pub struct Renderer {
    scripts: Scripts,
}

impl Renderer {
    /// Compiles all templates, so that none has a mistake when a machine waits.
    ///
    /// # Errors
    /// A template has a mistake.
    pub fn new() -> Result<Self, CompileError> {
        Ok(Self { scripts: Scripts::new()? })
    }

    /// The first script: has the machine ask what it boots, after it has tried to start `loader`.
    pub fn autoexec(&self, scene: &Scene, loader: Option<ContentKey>) -> String {
        self.scripts
            .render(&scene.context(&[]), &Script::Autoexec { loader })
            .unwrap_or_else(|error| self.error(scene, &error.to_string()))
    }

    /// The script for a decision.
    ///
    /// # Errors
    /// The decision holds what a script cannot carry; the error has the script to send.
    pub fn decision(&self, scene: &Scene, decision: &Decision) -> Result<String, Unrenderable> {
        let context = scene.context(&decision.reasons);
        if let Boot::PolicyScript { text, .. } = &decision.boot {
            return Ok(text.clone());
        }
        script(scene, decision)
            .map_err(Cause::from)
            .and_then(|script| Ok(self.scripts.render(&context, &script)?))
            .map_err(|cause| Unrenderable { script: self.error(scene, &cause.to_string()), cause })
    }

    /// The script for a machine whose question or whose answer went wrong: says `message`, boots the disk.
    pub fn error(&self, scene: &Scene, message: &str) -> String {
        self.scripts
            .render(&scene.context(&[]), &Script::Error { lines: lines(message) })
            .unwrap_or_else(|_| LAST_RESORT.to_owned())
    }
}

fn script(scene: &Scene, decision: &Decision) -> Result<Script, FillError> {
    let mac = decision.mac;
    Ok(match &decision.boot {
        Boot::ComeBackLater => Script::Unknown { mac },
        Boot::Discovered => Script::Discovered { mac },
        Boot::Install(workflow) => return install(scene, mac, workflow),
        Boot::Foreign { workflow, method } => {
            let [workflow, method] = [workflow, method].map(|fact| fact.clone().into());
            Script::Foreign { mac, workflow, method }
        }
        Boot::PendingWithoutWorkflow => Script::Pending { mac },
        Boot::Installing => Script::Installing { mac },
        Boot::InstallFailed => Script::InstallFailed { mac },
        Boot::LocalDisk => Script::Local { mac },
        Boot::Disputed => Script::Disputed { mac },
        Boot::Retired => Script::Retired { mac },
        Boot::Elsewhere => Script::Elsewhere { mac },
        Boot::Guest => Script::Guest { mac },
        Boot::TurnedAway => Script::TurnedAway { mac },
        Boot::Chain { by, target } => {
            let workflow = format!("chosen by site policy {by}");
            Script::Chain { mac, workflow, target: target.clone() }
        }
        Boot::Hold { seconds, .. } => Script::Hold { mac, seconds: seconds.to_string() },
        // What a policy has written goes out as it is; `Renderer::decision` does not come here with it.
        Boot::PolicyScript { .. } => Script::Local { mac },
        Boot::Refused { reason, .. } => Script::Refused { mac, lines: lines(reason) },
    })
}

fn install(scene: &Scene, mac: Mac, workflow: &Workflow) -> Result<Script, FillError> {
    let name = HardwareFact::from(workflow.name.clone()).into();
    Ok(match &workflow.boot {
        BootMethod::Kernel { kernel, initrd, command_line } => Script::Install {
            mac,
            workflow: name,
            kernel: kernel.clone(),
            initrds: initrd.clone(),
            command_line: fill(scene, workflow, command_line)?,
            image: None,
        },
        BootMethod::Image { kernel, initrd, command_line, image, disk } => {
            let command_line = fill(scene, workflow, command_line)?;
            // The URL of the image takes room that other installers leave to their command line.
            let url_len = scene.base.as_str().len() + image.to_string().len();
            let len = command_line.as_str().len() + url_len + disk.as_str().len();
            if len > COMMAND_LINE_LEN_MAX {
                return Err(FillError::Line(CommandLineError::Long(len)));
            }
            Script::Install {
                mac,
                workflow: name,
                kernel: kernel.clone(),
                initrds: initrd.clone(),
                command_line,
                image: Some(DiskImage { content: image.clone(), disk: disk.as_str().to_owned() }),
            }
        }
        BootMethod::Chain { target } => {
            Script::Chain { mac, workflow: name, target: target.clone() }
        }
        BootMethod::Sanboot { source, drive } => Script::Sanboot {
            mac,
            workflow: name,
            source: source.clone().into(),
            drive: drive.to_string(),
        },
    })
}

/// The command line of `workflow` with this machine's values.
fn fill(
    scene: &Scene,
    workflow: &Workflow,
    command_line: &CommandLineTemplate,
) -> Result<CommandLine, FillError> {
    let mut values = scene.values.clone();
    values.learn(Variable::WorkflowId, Some(workflow.id.to_string()));
    values.learn(Variable::WorkflowName, Some(workflow.name.clone()));
    values.learn(Variable::ServerUrl, Some(scene.base.to_string()));
    values.learn(Variable::BootId, Some(scene.session.to_string()));
    command_line.fill(|variable| values.get(variable))
}

/// A text that a script can carry: quotes and commas go, what else is not allowed becomes `_`, and what does not fit is cut.
pub(crate) fn plain(text: &str) -> HardwareFact {
    HardwareFact::from(without_quotes(text))
}

fn without_quotes(text: &str) -> String {
    text.replace('(', "- ").replace(['\'', '"', ',', ';', ')'], "")
}

/// Breaks a text into lines that a script can carry, as [`plain`] makes them.
fn lines(text: &str) -> Vec<String> {
    let text = without_quotes(text);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE_LEN => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().take(LINES_MAX).map(|line| HardwareFact::from(line).into()).collect()
}

#[cfg(test)]
mod tests;
