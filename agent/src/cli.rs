//! The command line: what can be typed, and where it leads.

mod answers;
mod arguments;
mod boots;
mod cache;
mod check_config;
mod conflicts;
mod dhcp_snippet;
mod doctor;
mod explain;
mod init;
mod install;
mod json;
mod node;
mod plugin;
mod queue;
mod start;
mod status;
mod sync;
mod update;

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

use crate::data_dir;
use crate::update::release;

/// Boots the machines of one site: TFTP and HTTP boot from verified copies, with the controller and without it.
#[derive(FromArgs, Debug)]
#[argh(
    note = "First time: `pureboot-agent init --site-id ID --central-url URL --token-file FILE`, then `pureboot-agent start`.",
    note = "PUREBOOT_DATA_DIR names another directory in place of /var/lib/pureboot wherever --data-dir does not.",
    note = "PUREBOOT_LOG=debug makes the log tell more (error, warn, info, debug, trace).",
    error_code(0, "done; for status: all is well"),
    error_code(
        1,
        "failed, or the arguments are wrong; for status: degraded; for doctor: something does not work"
    ),
    error_code(3, "status: the agent is not running"),
    error_code(
        75,
        "start: another version of the agent is here, or this one has given itself up; it is to be started again"
    )
)]
struct Arguments {
    /// print the version and end
    #[argh(switch, short = 'V')]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Init(init::Init),
    Start(start::Start),
    Status(status::Status),
    Boots(boots::Boots),
    Answers(answers::Answers),
    CheckConfig(check_config::CheckConfig),
    Cache(cache::Cache),
    Sync(sync::Sync),
    Queue(queue::Queue),
    Conflicts(conflicts::Conflicts),
    Node(node::Node),
    DhcpSnippet(dhcp_snippet::DhcpSnippet),
    Doctor(doctor::Doctor),
    Install(install::Install),
    Uninstall(install::Uninstall),
    Update(update::Update),
    Explain(explain::Explain),
    Plugin(plugin::Plugin),
}

/// Reads the arguments and does what they say; what goes wrong has been printed when this returns.
pub fn run() -> ExitCode {
    if let Some(compiled) = compiled_as_child() {
        return compiled;
    }
    let arguments: Arguments = argh::from_env();
    let done = match arguments.command {
        _ if arguments.version => print(&format!("pureboot-agent {}\n", release::version())),
        None => Err(anyhow::anyhow!(
            "say what to do: init, start, status, boots, explain, answers, doctor, check-config, cache, sync, queue, conflicts, node, plugin, dhcp-snippet, install, uninstall or update (--help tells more)"
        )),
        Some(Command::Init(init)) => init.run(),
        Some(Command::Start(start)) => start.run(),
        Some(Command::Status(status)) => status.run(),
        Some(Command::Boots(boots)) => boots.run(),
        Some(Command::Answers(answers)) => answers.run(),
        Some(Command::CheckConfig(check_config)) => check_config.run(),
        Some(Command::Cache(cache)) => cache.run(),
        Some(Command::Sync(sync)) => sync.run(),
        Some(Command::Queue(queue)) => queue.run(),
        Some(Command::Conflicts(conflicts)) => conflicts.run(),
        Some(Command::Node(node)) => node.run(),
        Some(Command::DhcpSnippet(snippet)) => snippet.run(),
        Some(Command::Doctor(doctor)) => doctor.run(),
        Some(Command::Install(install)) => install.run(),
        Some(Command::Uninstall(uninstall)) => uninstall.run(),
        Some(Command::Update(update)) => update.run(),
        Some(Command::Explain(explain)) => explain.run(),
        Some(Command::Plugin(plugin)) => plugin.run(),
    };
    done.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Does what a child does that compiles a policy, if this process is one.
fn compiled_as_child() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = pureboot_plugin_author::cli::local::child(&arguments)?;
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    })
}

/// Where the agent keeps everything where no argument names it.
fn default_data_dir() -> PathBuf {
    let named = std::env::var_os(data_dir::VARIABLE).filter(|dir| !dir.is_empty());
    named.map_or_else(|| data_dir::DEFAULT.into(), PathBuf::from)
}

/// Writes `text` to standard output. A reader that has left (`| head`) is no failure.
#[expect(clippy::unnecessary_wraps, reason = "so that a command ends with `print(…)`")]
fn print(text: &str) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;

    let mut stdout = std::io::stdout().lock();
    _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    Ok(ExitCode::SUCCESS)
}

/// Writes one line to standard error.
fn complain(text: &str) {
    use std::io::Write as _;

    // There is nobody else to tell.
    _ = writeln!(std::io::stderr(), "pureboot-agent: {text}");
}
