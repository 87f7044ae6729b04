//! What a trial needs of the machine that it runs on.

use std::path::Path;
use std::sync::OnceLock;

use nix::unistd::geteuid;
use pureboot_tests::namespace::Namespace;
use pureboot_tests::{process, prometheus_python, s3_server, schemathesis};

use crate::shipped;

/// Something that may be missing, and the cure.
pub(crate) enum Need {
    /// The right to do as root does.
    Root,
    /// Network namespaces, bridges and tap devices.
    Namespaces,
    /// A program and the Debian package that brings it.
    Program(&'static str, &'static str),
    /// The parser of metrics, from PyPI.
    PrometheusClient,
    /// The tester of OpenAPI documents, from PyPI.
    Schemathesis,
    /// A file and the Debian package that brings it.
    File(&'static str, &'static str),
    /// The S3 server that `cargo xtask test` installs.
    S3Server,
    /// The agent for another kind of machine, and what runs it here.
    Shipped(&'static str),
    /// Several of these.
    All(&'static [Self]),
    /// Time: a row of the firmware matrix that is not in the sample of every day.
    Long,
}

fn namespaces() -> Result<(), String> {
    static PROBE: OnceLock<Result<(), String>> = OnceLock::new();
    let probe = || {
        let namespace = Namespace::new()?;
        namespace.add_tap("probe")?;
        namespace.enter(|| Ok(()))
    };
    PROBE.get_or_init(|| probe().map_err(|error| format!("{error:#}"))).clone()
}

fn shipped(target: &str) -> Option<String> {
    let emulator = shipped::emulator(target);
    if !shipped::program(target).is_file() {
        Some(format!("needs what ships: cargo xtask dist --program agent --target {target}"))
    } else if emulator.is_some_and(|name| process::find(name).is_none()) {
        Some("needs an emulator: apt-get install qemu-user-static".to_owned())
    } else {
        None
    }
}

impl Need {
    /// Why the trial cannot run here; none where it can.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            Self::Root => (!geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Namespaces => namespaces().err().map(|error| {
                format!("needs network namespaces with tap devices, as root: {error}")
            }),
            Self::Program(name, package) => process::find(name)
                .is_none()
                .then(|| format!("needs the program {name}: apt-get install {package}")),
            Self::S3Server => (!s3_server().is_ok_and(|program| program.is_file()))
                .then(|| "needs an S3 server: cargo xtask test installs moto from PyPI".to_owned()),
            Self::PrometheusClient => (!prometheus_python().is_ok_and(|program| program.is_file()))
                .then(|| {
                    "needs prometheus_client: cargo xtask test installs it from PyPI".to_owned()
                }),
            Self::Schemathesis => (!schemathesis().is_ok_and(|program| program.is_file()))
                .then(|| "needs schemathesis: cargo xtask test installs it from PyPI".to_owned()),
            Self::Shipped(target) => shipped(target),
            Self::File(path, package) => (!Path::new(path).exists())
                .then(|| format!("needs the file {path}: apt-get install {package}")),
            Self::All(needs) => {
                let missing: Vec<_> = needs.iter().filter_map(Self::missing).collect();
                (!missing.is_empty()).then(|| missing.join("; "))
            }
            Self::Long => (!pureboot_tests::is_long())
                .then(|| "is a row of the firmware matrix: cargo xtask test --long".to_owned()),
        }
    }
}
