//! System calls of the agent that fail while it works: no boot is lost, no report, and no other byte is given (FAULTS §3).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pureboot_tests::machines::Machine;
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site, boot_of};
use pureboot_tests::{http, is_long, noise, random_mac, wait};

use crate::faults::{FILL_LIMIT, boots_and_reports, file};
use crate::need::Need;
use crate::sync::{assign, sync};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(d4_d5_a_disk_that_fails_in_flight_costs_no_boot_and_no_report, Need::Root, STRACE),
        case!(d6_a_fill_survives_every_call_that_fails, Need::Root, STRACE),
        case!(d11_a_quota_that_is_used_up_is_served_past_and_recovers, Need::Root, STRACE),
        case!(d12_a_machine_that_asks_again_in_its_session_needs_no_disk, Need::Root, STRACE),
    ]
}

pub(crate) const STRACE: Need = Need::Program("strace", "strace");

/// Makes system calls of a running program fail until it is dropped.
pub(crate) struct Injection {
    #[expect(dead_code, reason = "ends with this")]
    strace: Program,
    output: PathBuf,
}

impl Injection {
    /// Attaches to every thread of `pid`; `fault` is what strace calls an injection.
    pub(crate) fn begin(pid: u32, call: &str, fault: &str, site: &Site) -> Result<Self> {
        Self::begin_with(pid, &[], call, fault, site)
    }

    /// The same, only for calls that name the file `path`.
    pub(crate) fn begin_at(
        pid: u32,
        path: &Path,
        call: &str,
        fault: &str,
        site: &Site,
    ) -> Result<Self> {
        Self::begin_with(pid, &["--trace-path".as_ref(), path.as_os_str()], call, fault, site)
    }

    fn begin_with(
        pid: u32,
        limits: &[&OsStr],
        call: &str,
        fault: &str,
        site: &Site,
    ) -> Result<Self> {
        let output = site.dir().join("strace.output");
        let mut command = process::system("strace")?;
        command.args(["--follow-forks", "--quiet=all"]).arg("--output").arg(&output);
        command.args(limits);
        command.arg(format!("--trace={call}")).arg(format!("--inject={call}:{fault}"));
        command.args(["--attach", &pid.to_string()]);
        let strace = Program::spawn("strace", command, site.dir())?;
        wait::until("strace holds every thread", ARRIVAL_LIMIT, || {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
                if status.contains("TracerPid:\t0\n") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        Ok(Self { strace, output })
    }

    /// Whether a call has failed.
    fn has_struck(&self) -> Result<bool> {
        Ok(fs::read_to_string(&self.output)?.contains("(INJECTED)"))
    }
}

fn d4_d5_a_disk_that_fails_in_flight_costs_no_boot_and_no_report() -> Result<()> {
    let mut site = Site::start()?;
    let machine = Machine::boot(&site.agent)?;
    site.controller.wait_for_state(machine.mac(), "discovered")?;
    let mut taken = 0;
    for (call, error) in [("/^pwrite", "EROFS"), ("/^f(data)?sync", "EIO")] {
        let step = || format!("{call} fails with {error}");
        let pid = site.agent.program()?.pid();
        {
            let fault = format!("error={error}:when=1+");
            let _failing = Injection::begin(pid, call, &fault, &site)?;
            for _ in 0..3 {
                let answer = machine.try_report(site.agent.boot(), taken + 1)?;
                ensure!(
                    matches!(answer.status, 503 | 507),
                    "{}: a report was answered {}: {}",
                    step(),
                    answer.status,
                    answer.text()
                );
                site.agent.script(machine.mac()).with_context(step)?;
            }
        }
        wait::until("a report is taken again", FILL_LIMIT, || {
            Ok(machine.report(site.agent.boot(), taken + 1).then_some(()))
        })
        .with_context(step)?;
        taken += 1;
        ensure!(site.agent.program()?.is_running()?, "{}: the agent has ended", step());
    }
    wait::until("all is handed over", FILL_LIMIT, || {
        Ok((site.agent.pending()? == 0).then_some(()))
    })?;
    machine.check(&site.controller, taken, taken)
}

/// What comes of one look at a file while the disk fails: it may be refused or break off, and it is never another one.
fn is_harmless(answer: Result<http::Answer>, content: &[u8]) -> Result<()> {
    match answer {
        Ok(answer) if answer.status == 200 => {
            ensure!(answer.body == content, "another file came while the disk failed");
        }
        Ok(answer) => {
            let is_refusal = matches!(answer.status, 404 | 500 | 503);
            ensure!(is_refusal, "status {}: {}", answer.status, answer.text());
        }
        Err(_) => {}
    }
    Ok(())
}

fn d6_a_fill_survives_every_call_that_fails() -> Result<()> {
    const CALLS: [&str; 4] = ["/^p?write", "/^f(data)?sync", "/^openat", "/^renameat"];
    /// More of a kind than any thread makes while a file comes.
    const CALLS_MAX: usize = 400;
    let mut ground = Failing::at(Site::start()?)?;
    for call in CALLS {
        // Once at this call, or at it and all that follow.
        for ever in ["", "+"] {
            let numbers = match (is_long(), ever) {
                (true, _) => (1..=CALLS_MAX).collect(),
                (false, "") => vec![1, 4],
                (false, _) => vec![2],
            };
            for number in numbers {
                let when = format!("{number}{ever}");
                let has_struck = ground.has_struck(call, &when);
                if !has_struck.with_context(|| format!("{call} fails when {when}"))? {
                    ensure!(number > 1, "no thread ever calls {call}");
                    break;
                }
                ensure!(number < CALLS_MAX, "{call} has no end");
            }
        }
    }
    ground.check()
}

/// A site whose disk fails while content comes and a machine reports.
struct Failing {
    site: Site,
    files: usize,
    machine: Machine,
    /// Reports that were taken, and those that were made.
    taken: usize,
    tried: usize,
}

impl Failing {
    fn at(site: Site) -> Result<Self> {
        let machine = Machine::boot(&site.agent)?;
        site.controller.wait_for_state(machine.mac(), "discovered")?;
        Ok(Self { site, files: 0, machine, taken: 0, tried: 0 })
    }

    /// Has a file come and a report made while `call` fails; returns whether it did. With a disk that works again everything is as it
    /// should be, in this life of the agent or the next.
    fn has_struck(&mut self, call: &str, when: &str) -> Result<bool> {
        let (name, content) = (format!("images/d6-{}", self.files), noise(300_000));
        self.files += 1;
        self.site.controller.upload(&name, &content)?;
        assign(&self.site, &[&name])?;
        let url = self.site.agent.url(&format!("/files/{name}"));
        let pid = self.site.agent.program()?.pid();
        let fault = format!("error=EIO:when={when}");
        let has_struck = {
            let failing = Injection::begin(pid, call, &fault, &self.site)?;
            for _ in 0..3 {
                is_harmless(http::get(&url), &content)?;
                self.report()?;
            }
            // Perhaps the fill is yet to come to that call.
            wait::until("a call fails, or the file is here", FILL_LIMIT, || {
                let is_here = || http::get(&url).is_ok_and(|answer| answer.status == 200);
                Ok((failing.has_struck()? || is_here()).then_some(()))
            })?;
            failing.has_struck()?
        };
        let found = wait::until("the file is given again", FILL_LIMIT, || {
            if !self.site.agent.program()?.is_running()? {
                self.site.agent.stop();
                self.site.agent.start()?;
            }
            let answer = http::get(&self.site.agent.url(&format!("/files/{name}"))).ok();
            Ok(answer.filter(|answer| answer.status == 200))
        })?;
        ensure!(found.body == content, "another file");
        wait::until("a report is taken again", FILL_LIMIT, || Ok(self.report()?.then_some(())))?;
        Ok(has_struck)
    }

    /// Whether the machine's next report is taken.
    fn report(&mut self) -> Result<bool> {
        self.tried = self.taken + 1;
        let is_taken = self.machine.report(self.site.agent.boot(), self.tried);
        self.taken += usize::from(is_taken);
        Ok(is_taken)
    }

    /// The controller has every report that was taken, once and in order.
    fn check(&self) -> Result<()> {
        wait::until("all is handed over", FILL_LIMIT, || {
            Ok((self.site.agent.pending()? == 0).then_some(()))
        })?;
        self.machine.check(&self.site.controller, self.taken, self.tried)
    }
}

fn d11_a_quota_that_is_used_up_is_served_past_and_recovers() -> Result<()> {
    let mut site = Site::start()?;
    let machine = Machine::boot(&site.agent)?;
    site.controller.wait_for_state(machine.mac(), "discovered")?;
    let content = noise(3_000_000);
    site.controller.upload("images/one", &content)?;
    let pid = site.agent.program()?.pid();
    {
        let failing = Injection::begin(pid, "/^pwrite", "error=EDQUOT:when=1+", &site)?;
        assign(&site, &["images/one"])?;
        ensure!(file(&site, "images/one")? == content, "another file is given past the cache");
        ensure!(failing.has_struck()?, "nothing was written");
        let answer = machine.try_report(site.agent.boot(), 1)?;
        let (status, text) = (answer.status, answer.text());
        ensure!(matches!(status, 503 | 507), "a report was answered {status}: {text}");
        site.agent.script(machine.mac())?;
    }
    boots_and_reports(&site)?;
    wait::until("a report is taken again", FILL_LIMIT, || {
        Ok(machine.report(site.agent.boot(), 1).then_some(()))
    })?;
    wait::until("the file comes into the cache", FILL_LIMIT, || {
        let outcome = sync(&site)?;
        let is_complete = outcome.get("status").is_some_and(|status| status == "completed");
        Ok(is_complete.then_some(()))
    })?;
    wait::until("all is handed over", FILL_LIMIT, || {
        Ok((site.agent.pending()? == 0).then_some(()))
    })?;
    ensure!(site.agent.program()?.is_running()?, "the agent has ended");
    machine.check(&site.controller, 1, 1)?;
    // What is not on the disk cannot come from elsewhere.
    site.controller.stop();
    ensure!(file(&site, "images/one")? == content, "another file is held");
    Ok(())
}

fn d12_a_machine_that_asks_again_in_its_session_needs_no_disk() -> Result<()> {
    const UNWRITTEN: &str = "could not be written down";
    let mut site = Site::start()?;
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    let path = format!("/boot/{mac}?arch=x86_64&platform=pcbios&boot={boot}");
    let url = site.agent.url(&path);
    // From its own record, so that nothing new comes from the controller, and what it said first is written.
    site.controller.stop();
    site.wait_until_offline()?;
    http::get(&url)?.expect(200)?;
    let pid = site.agent.program()?.pid();
    let _failing = Injection::begin(pid, "/^f(data)?sync", "error=EIO:when=1+", &site)?;
    let script = http::get(&url)?.expect(200)?.text();
    ensure!(script.contains(&boot), "another session than {boot}:\n{script}");
    ensure!(!site.agent.program()?.log().contains(UNWRITTEN), "it was to be written");
    // A new session is to be written, and is served all the same where that fails.
    site.agent.script(&mac)?;
    wait::until("the log tells of the disk", ARRIVAL_LIMIT, || {
        Ok(site.agent.program()?.log().contains(UNWRITTEN).then_some(()))
    })
}
