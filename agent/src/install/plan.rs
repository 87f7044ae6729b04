//! What has to be done for the agent to live on a machine, and to leave it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The user that the agent runs as.
pub const USER: &str = "pureboot";

/// Where the unit expects the program, which a package puts there.
const UNIT_PROGRAM: &str = "/usr/bin/pureboot-agent";
const UNIT: &str = include_str!("../../../image/systemd/pureboot-agent.service");
const INIT_SCRIPT: &str = include_str!("../../../image/openwrt/pureboot-agent.init");
const CONF: &str = include_str!("../../../image/openwrt/pureboot-agent.conf");
const PROFILE: &str = include_str!("../../../image/openwrt/profile.sh");
const KEEP: &str = include_str!("../../../image/openwrt/keep");

/// What starts programs on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// systemd.
    Systemd,
    /// OpenWrt's procd.
    Procd,
    /// Something else, which a person tells what to start.
    Other,
}

impl FromStr for System {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "systemd" => Ok(Self::Systemd),
            "procd" => Ok(Self::Procd),
            "none" => Ok(Self::Other),
            other => Err(format!("'{other}' is none of systemd, procd, none")),
        }
    }
}

/// One thing to do. Paths are those that the machine itself will see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A user and group of the system, without password and shell, where there is none of that name.
    User {
        /// Its home.
        home: &'static str,
    },
    /// This very program.
    Program(&'static str),
    /// The directory of all that the agent keeps, its user's alone.
    DataDir(&'static str),
    /// A file of root's.
    File {
        /// Where.
        path: &'static str,
        /// With these rights.
        mode: u32,
        /// What it holds.
        text: String,
        /// Whether a person may have changed it, so that one that is there stays.
        is_settings: bool,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: &'static str,
        /// To there.
        target: &'static str,
    },
    /// A command, where the machine is this one and runs.
    Run(&'static [&'static str]),
    /// What lies there goes, if something does.
    Remove(&'static str),
    /// All that the agent kept goes.
    RemoveData(&'static str),
    /// The user and group go.
    RemoveUser,
}

/// Where things are put on a machine that is run by one system.
struct Layout {
    program: &'static str,
    data_dir: &'static str,
    /// The key that lies beside it (`update::pin`).
    pin: &'static str,
    files: Vec<Step>,
    link: Option<(&'static str, &'static str)>,
    after: &'static [&'static str],
    before_leaving: &'static [&'static str],
    after_leaving: &'static [&'static str],
}

impl System {
    fn layout(self) -> Layout {
        let file = |path, mode, text: &str, is_settings| Step::File {
            path,
            mode,
            text: text.to_owned(),
            is_settings,
        };
        match self {
            Self::Systemd => {
                let program = "/usr/local/bin/pureboot-agent";
                let unit = UNIT.replace(UNIT_PROGRAM, program);
                Layout {
                    program,
                    data_dir: "/var/lib/pureboot",
                    pin: "/var/lib/pureboot.pin",
                    files: vec![file(
                        "/etc/systemd/system/pureboot-agent.service",
                        0o644,
                        &unit,
                        false,
                    )],
                    link: Some((
                        "/etc/systemd/system/multi-user.target.wants/pureboot-agent.service",
                        "/etc/systemd/system/pureboot-agent.service",
                    )),
                    after: &["systemctl", "daemon-reload"],
                    before_leaving: &["systemctl", "stop", "pureboot-agent"],
                    after_leaving: &["systemctl", "daemon-reload"],
                }
            }
            Self::Procd => Layout {
                program: "/usr/sbin/pureboot-agent",
                data_dir: "/srv/pureboot",
                pin: "/srv/pureboot.pin",
                files: vec![
                    file("/etc/init.d/pureboot-agent", 0o755, INIT_SCRIPT, false),
                    file("/etc/pureboot-agent.conf", 0o644, CONF, true),
                    file("/etc/profile.d/pureboot-agent.sh", 0o644, PROFILE, false),
                    file("/lib/upgrade/keep.d/pureboot-agent", 0o644, KEEP, false),
                ],
                link: Some(("/etc/rc.d/S95pureboot-agent", "../init.d/pureboot-agent")),
                after: &[],
                before_leaving: &["/etc/init.d/pureboot-agent", "stop"],
                after_leaving: &[],
            },
            Self::Other => Layout {
                program: "/usr/local/bin/pureboot-agent",
                data_dir: "/var/lib/pureboot",
                pin: "/var/lib/pureboot.pin",
                files: Vec::new(),
                link: None,
                after: &[],
                before_leaving: &[],
                after_leaving: &[],
            },
        }
    }

    /// The files of the agent that only such a system has, and no person's settings.
    pub fn own_files(self) -> Vec<&'static str> {
        let own = |step| match step {
            Step::File { path, is_settings: false, .. } => Some(path),
            _ => None,
        };
        self.layout().files.into_iter().filter_map(own).collect()
    }

    /// Where its machines keep the agent's data.
    pub fn data_dir(self) -> &'static str {
        self.layout().data_dir
    }

    /// What starts the agent now, for a person to type.
    pub fn start_command(self) -> String {
        match self {
            Self::Systemd => "systemctl restart pureboot-agent".to_owned(),
            Self::Procd => "/etc/init.d/pureboot-agent restart".to_owned(),
            Self::Other => {
                let Layout { program, data_dir, .. } = self.layout();
                format!(
                    "{program} start --supervise --data-dir {data_dir}   (as root, at each start of the machine)"
                )
            }
        }
    }
}

/// What makes the agent at home on a machine that is run by `system`.
pub fn install(system: System) -> Vec<Step> {
    let Layout { program, data_dir, files, link, after, .. } = system.layout();
    let mut steps =
        vec![Step::User { home: data_dir }, Step::Program(program), Step::DataDir(data_dir)];
    steps.extend(files);
    steps.extend(link.map(|(path, target)| Step::Link { path, target }));
    steps.extend((!after.is_empty()).then_some(Step::Run(after)));
    steps
}

/// What takes it away again. Data, and the user that they belong to, stay unless they are to go too.
pub fn uninstall(system: System, with_data: bool) -> Vec<Step> {
    let Layout { program, data_dir, pin, files, link, before_leaving, after_leaving, .. } =
        system.layout();
    let mut steps = Vec::new();
    steps.extend((!before_leaving.is_empty()).then_some(Step::Run(before_leaving)));
    steps.extend(link.map(|(path, _)| Step::Remove(path)));
    steps.extend(files.into_iter().filter_map(|file| match file {
        Step::File { path, is_settings, .. } => {
            (with_data || !is_settings).then_some(Step::Remove(path))
        }
        _ => None,
    }));
    steps.push(Step::Remove(program));
    steps.extend((!after_leaving.is_empty()).then_some(Step::Run(after_leaving)));
    if with_data {
        steps.extend([Step::RemoveData(data_dir), Step::Remove(pin), Step::RemoveUser]);
    }
    steps
}

/// The place in the tree at `root` of what the machine itself sees as `path`.
pub fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { .. } => {
                write!(f, "make the user and group {USER}, without password and shell")
            }
            Self::Program(path) => write!(f, "copy this program to {path}"),
            Self::DataDir(path) => write!(f, "make {path}, readable by {USER} alone"),
            Self::File { path, mode, is_settings: false, .. } => {
                write!(f, "write {path} (mode {mode:o})")
            }
            Self::File { path, mode, is_settings: true, .. } => {
                write!(f, "write {path} (mode {mode:o}), if there is none")
            }
            Self::Link { path, target } => {
                write!(f, "link {path} to {target}, so that it starts with the machine")
            }
            Self::Run(command) => write!(f, "run {}", command.join(" ")),
            Self::Remove(path) => write!(f, "remove {path}"),
            Self::RemoveUser => write!(f, "remove the user and group {USER}"),
            Self::RemoveData(path) => {
                write!(
                    f,
                    "remove {path} with all that the agent keeps, also what waits for the controller"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(steps: &[Step]) -> String {
        steps.iter().map(|step| format!("{step}\n")).collect()
    }

    #[test]
    fn a_machine_with_systemd_gets_a_unit_that_starts_the_copied_program() {
        let steps = install(System::Systemd);
        expect_test::expect![[r#"
            make the user and group pureboot, without password and shell
            copy this program to /usr/local/bin/pureboot-agent
            make /var/lib/pureboot, readable by pureboot alone
            write /etc/systemd/system/pureboot-agent.service (mode 644)
            link /etc/systemd/system/multi-user.target.wants/pureboot-agent.service to /etc/systemd/system/pureboot-agent.service, so that it starts with the machine
            run systemctl daemon-reload
        "#]]
        .assert_eq(&text(&steps));
        let unit = steps.iter().find_map(|step| match step {
            Step::File { text, .. } => Some(text),
            _ => None,
        });
        let line = "\nExecStart=/usr/local/bin/pureboot-agent start\n";
        assert!(unit.expect("a unit").contains(line));
    }

    #[test]
    fn what_is_installed_is_taken_away_and_data_stay_unless_they_are_to_go() {
        for system in [System::Systemd, System::Procd, System::Other] {
            let left = |with_data| {
                let gone = uninstall(system, with_data);
                let stays = |step: &Step| match step {
                    Step::Program(path) | Step::File { path, .. } | Step::Link { path, .. } => {
                        !gone.contains(&Step::Remove(path))
                    }
                    Step::User { .. } => !gone.contains(&Step::RemoveUser),
                    Step::DataDir(path) => !gone.contains(&Step::RemoveData(path)),
                    _ => false,
                };
                install(system).into_iter().filter(stays).collect::<Vec<_>>()
            };
            assert_eq!(left(true), []);
            let is_data = |step: &Step| {
                matches!(
                    step,
                    Step::User { .. } | Step::DataDir(_) | Step::File { is_settings: true, .. }
                )
            };
            assert!(left(false).iter().all(is_data) && !left(false).is_empty(), "{system:?}");
        }
    }
}
