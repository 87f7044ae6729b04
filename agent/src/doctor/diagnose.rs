//! From what was seen of boots to what went wrong: each case that was reproduced on real firmware, with cause and cure.
//!
//! Pure. A rule looks at one boot and says at most one thing; what is normal, such as firmware that asks for the length of a
//! file first, is no finding. A rule judges by an absence only where what it misses is seen by the same listener.

use pureboot_protocol::Timestamp;

use super::finding::Finding;
use super::servers::is_probe;
use super::trace::{Step, Trace, Way};
use crate::dhcp::quirks::OfferMode;

/// How many findings are told; the rest is counted.
const FINDINGS_MAX: usize = 32;
/// After so much silence a boot counts as stuck.
const QUIET_S: i64 = 30;
/// So often the same loader is a loop.
const LOOP_LOADS: usize = 3;
/// A block larger than this needs a path that carries whole Ethernet frames.
const SMALL_BLOCK_LEN: u16 = 1_024;
/// A transfer in lock-step is worth a word if it is this large and takes this long.
const LOCK_STEP_SIZE_BYTES: u64 = 128 * 1024;
const LOCK_STEP_DURATION_MS: u64 = 5_000;
/// So often "come back later" without a file is no short wait any more.
const POSTPONED_MAX: usize = 3;

type Rule = fn(&Boot<'_>) -> Option<Finding>;

/// In the order of the table of BOOT §9, what explains most first.
const RULES: &[Rule] = &[
    other_server,
    unsent,
    refused,
    loader_missing,
    boot_server_unanswered,
    offer_ignored,
    looped,
    shim_without_directory,
    shim_stuck,
    second_stage_missing,
    grub_behind_proxy,
    access_denied,
    large_blocks_lost,
    broken_off,
    postponed,
    lock_step,
    script_not_fetched,
];

/// One boot and the time at which it is judged.
struct Boot<'a> {
    trace: &'a Trace,
    now: Timestamp,
}

impl Boot<'_> {
    fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.trace.steps.iter().map(|(_, step)| step)
    }

    /// Those after the last one that `is` says yes to.
    fn after_last(&self, is: impl Fn(&Step) -> bool) -> Option<Vec<&Step>> {
        let mut rest = Vec::new();
        for step in self.steps().rev() {
            if is(step) {
                rest.reverse();
                return Some(rest);
            }
            rest.push(step);
        }
        None
    }

    /// The last step that `is` says yes to, unless the machine has got an answer since.
    fn last_word(&self, is: impl Fn(&Step) -> bool) -> Option<&Step> {
        let is_answer = |step: &Step| is_progress(step) || matches!(step, Step::Offered { .. });
        let (index, step) = self.steps().enumerate().filter(|(_, step)| is(step)).last()?;
        (!self.steps().skip(index + 1).any(is_answer)).then_some(step)
    }

    fn is_quiet(&self) -> bool {
        let last = self.trace.steps.last();
        last.is_some_and(|(at, _)| self.now.seconds_since(*at) >= QUIET_S)
    }

    fn any(&self, is: impl Fn(&Step) -> bool) -> bool {
        self.steps().any(is)
    }

    fn name(&self) -> String {
        format!("boot {}", self.trace.mac)
    }

    fn fail(&self, what: impl Into<String>) -> Finding {
        Finding::fail(self.name(), what)
    }

    fn warn(&self, what: impl Into<String>) -> Finding {
        Finding::warn(self.name(), what)
    }
}

/// What went wrong with these boots, at `now`.
pub fn diagnose(traces: &[Trace], now: Timestamp) -> Vec<Finding> {
    let machines = traces.iter().filter(|trace| !is_probe(trace.mac));
    let boots = machines.map(|trace| Boot { trace, now });
    let mut findings: Vec<_> =
        boots.flat_map(|boot| RULES.iter().find_map(|rule| rule(&boot))).collect();
    let hidden = findings.len().saturating_sub(FINDINGS_MAX);
    findings.truncate(FINDINGS_MAX);
    if hidden > 0 {
        findings.push(Finding::warn("boots", format!("{hidden} more boots went wrong")));
    }
    findings
}

/// The last part of a path or URL.
fn base(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn is_shim(file: &str) -> bool {
    base(file).contains("shim")
}

fn is_grub(file: &str) -> bool {
    base(file).starts_with("grub")
}

/// The loader that was fetched whole last.
fn loader(step: &Step) -> Option<&str> {
    match step {
        Step::Fetched { file, .. } if base(file).ends_with(".efi") => Some(file),
        _ => None,
    }
}

/// A site's server with a boot file of its own: UEFI takes the proxy's, iPXE obeys the site's.
fn other_server(boot: &Boot<'_>) -> Option<Finding> {
    boot.steps().find_map(|step| {
        let Step::OtherServer { server, file } = step else { return None };
        let finding = boot
            .fail(format!("the DHCP server {server} names the boot file '{file}'"))
            .because("iPXE obeys the server that leases its address before any other")
            .cure(format!("remove options 66 and 67 (next-server, filename) from {server}"));
        Some(finding)
    })
}

/// A host without a default route, or a link that is down.
fn unsent(boot: &Boot<'_>) -> Option<Finding> {
    let Step::Unsent { error } = boot.last_word(|step| matches!(step, Step::Unsent { .. }))? else {
        return None;
    };
    let finding = boot
        .fail(format!("the answer could not be sent: {error}"))
        .because("the link is down or a packet filter rejects broadcasts to port 68")
        .cure("look at `ip link`, and let the agent send from ports 67 and 4011");
    Some(finding)
}

fn refused(boot: &Boot<'_>) -> Option<Finding> {
    let is_refusal = |step: &Step| matches!(step, Step::Refused { .. });
    let Step::Refused { reason } = boot.last_word(is_refusal)? else { return None };
    let finding = boot
        .warn(format!("got no answer: {reason}"))
        .cure("none is needed if it is to boot its disk; else name a loader in [dhcp.loaders]");
    Some(finding)
}

fn loader_missing(boot: &Boot<'_>) -> Option<Finding> {
    let offered: Vec<&str> = boot
        .steps()
        .filter_map(|step| match step {
            Step::Offered { file, .. } => Some(file.as_str()),
            _ => None,
        })
        .collect();
    boot.steps().find_map(|step| {
        let Step::Missing { file, .. } = step else { return None };
        let is_offered = offered.iter().any(|offered| base(offered) == base(file));
        is_offered.then(|| {
            boot.fail(format!("was sent for the loader '{file}', which the cache does not hold"))
                .cure(format!("`pureboot-agent cache add bootloaders/{} FILE`", base(file)))
        })
    })
}

/// Mode B: the machine comes to port 4011, tries four times and says PXE-E16.
fn boot_server_unanswered(boot: &Boot<'_>) -> Option<Finding> {
    let is_offer =
        |step: &Step| matches!(step, Step::Offered { mode: Some(OfferMode::BootServer), .. });
    let rest = boot.after_last(is_offer)?;
    let is_leased = rest.iter().any(|step| matches!(step, Step::LeaseAsked));
    let has_come = |is| rest.iter().any(|step| **step == Step::BootServerAsked { is_answered: is });
    let went_on = rest.iter().any(|step| is_progress(step));
    if has_come(true) || went_on || !(has_come(false) || is_leased && boot.is_quiet()) {
        return None;
    }
    let finding = if has_come(false) {
        boot.fail("asked port 4011 and was not answered; firmware tries four times, then PXE-E16")
            .because("the agent had no answer for it there")
    } else {
        boot.fail("took its lease and was not heard on port 4011 (PXE-E16 on its screen)")
            .because("port 4011/udp does not reach the agent, or this firmware wants option 43")
    };
    Some(finding.cure(
        "open 4011/udp between machine and agent; else give its model mode = \"direct\" in [[dhcp.quirk]]",
    ))
}

fn is_progress(step: &Step) -> bool {
    matches!(
        step,
        Step::Probed { .. }
            | Step::Fetched { .. }
            | Step::Cut { .. }
            | Step::Missing { .. }
            | Step::ScriptOffered
            | Step::Scripted
    )
}

fn offer_ignored(boot: &Boot<'_>) -> Option<Finding> {
    let offers = boot.steps().filter(|step| matches!(step, Step::Offered { .. })).count();
    let went_on = boot.any(|step| {
        is_progress(step)
            || matches!(step, Step::LeaseAsked | Step::LoopBroken | Step::BootServerAsked { .. })
    });
    (offers >= 2 && !went_on && boot.is_quiet()).then(|| {
        boot.fail(format!("was offered a loader {offers} times and never asked for a lease"))
            .because("nobody leases it an address, or its firmware ignores this form of offer")
            .cure(
                "see that a DHCP server answers on its network; the other form is tried by itself, \
                 mode = in [[dhcp.quirk]] settles it",
            )
    })
}

/// An iPXE that does not say that it is one, or a loader that starts firmware's PXE anew.
fn looped(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| *step == Step::Scripted);
    let rest = rest.unwrap_or_else(|| boot.steps().collect());
    let loaders: Vec<&str> = rest.iter().filter_map(|step| loader(step)).collect();
    let is_repeated = loaders
        .iter()
        .any(|file| loaders.iter().filter(|other| *other == file).count() >= LOOP_LOADS);
    let is_broken = rest.iter().any(|step| matches!(step, Step::LoopBroken));
    (is_broken || is_repeated).then(|| {
        boot.warn("came back for the same loader three times: a loop")
            .because("the loader asks as if it were firmware, with neither option 175 nor the user class iPXE")
            .cure("use an iPXE build that sends option 175 (any of ipxe.org or Debian), or one with autoexec.ipxe")
    })
}

/// shim reads the directory from the header field `file` alone.
fn shim_without_directory(boot: &Boot<'_>) -> Option<Finding> {
    let shim = boot.steps().filter_map(loader).find(|file| is_shim(file) && file.contains('/'))?;
    let at_root = |step: &Step| match step {
        Step::Missing { file, way: Way::Tftp, .. } => !file.contains('/') && is_grub(file),
        _ => false,
    };
    boot.any(at_root).then(|| {
        boot.fail(format!("shim ('{shim}') asks for its next file without the directory"))
            .because("the DHCP server names the boot file in option 67 and not in the header")
            .cure("set the header's file too (dnsmasq: dhcp-boot in place of dhcp-option=67), or enable [dhcp] here")
    })
}

/// shim 16.1 waits for ever on a 404 without body.
fn shim_stuck(boot: &Boot<'_>) -> Option<Finding> {
    let last = boot.steps().next_back()?;
    let Step::Missing { file, way: Way::Http, body_len: 0 } = last else { return None };
    boot.is_quiet().then(|| {
        boot.fail(format!("is silent since '{file}' was answered 404 without a body"))
            .because("shim waits for a body for ever")
            .cure("let no proxy between machine and agent strip the bodies of errors")
    })
}

fn second_stage_missing(boot: &Boot<'_>) -> Option<Finding> {
    let shim = boot.steps().filter_map(loader).find(|file| is_shim(file))?;
    // Over HTTP the name follows the category.
    let name = shim.rsplit("bootloaders/").next().unwrap_or(shim);
    let next = name.parse::<crate::dhcp::loaders::LoaderFile>().ok()?.second_stage()?;
    let missing = |step: &Step| match step {
        Step::Missing { file, .. } => base(file) == base(next.path()),
        _ => false,
    };
    boot.any(missing).then(|| {
        boot.fail(format!("shim ('{shim}') was told that '{}' is missing", base(next.path())))
            .because("a shim starts the second stage beside it and nothing else")
            .cure(format!("`pureboot-agent cache add {next} FILE`"))
    })
}

/// Signed GRUB asks TFTP at the server that leases addresses.
fn grub_behind_proxy(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| loader(step).is_some_and(is_grub))?;
    let went_on = rest.iter().any(|step| is_progress(step));
    let is_proxied = boot.any(|step| matches!(step, Step::Offered { .. }));
    (is_proxied && !went_on && boot.is_quiet()).then(|| {
        boot.fail("loaded GRUB and asked this agent for nothing more")
            .because("GRUB asks TFTP at the server that leased its address, which ProxyDHCP is not")
            .cure("chain iPXE and not GRUB (ipxe-shimx64.efi with ipxe.efi), or let the site's DHCP server name the agent")
    })
}

/// Secure Boot loads an unsigned loader whole and then refuses to start it.
fn access_denied(boot: &Boot<'_>) -> Option<Finding> {
    let file = boot.steps().rev().find_map(loader)?;
    let rest = boot.after_last(|step| loader(step) == Some(file))?;
    let went_on = rest
        .iter()
        .any(|step| is_progress(step) || matches!(step, Step::LeaseAsked | Step::Offered { .. }));
    if went_on || !boot.is_quiet() || is_shim(file) || is_grub(file) {
        return None;
    }
    let loads = boot.steps().filter(|step| loader(step) == Some(file)).count();
    let times = if loads > 1 { format!("{loads} times ") } else { String::new() };
    let finding = if loads > 1 { boot.fail("") } else { boot.warn("") };
    Some(
        Finding { what: format!("loaded '{file}' {times}whole, then fell silent"), ..finding }
            .because("Secure Boot refuses a loader that is not signed (Access Denied on its screen)")
            .cure("name a signed shim in [dhcp.loaders] (ipxe-shimx64.efi with ipxe.efi), or switch Secure Boot off"),
    )
}

fn large_blocks_lost(boot: &Boot<'_>) -> Option<Finding> {
    boot.steps().rev().find_map(|step| {
        let Step::Cut { file, way: Way::Tftp, sent_bytes: 0, block_len: Some(len) } = step else {
            return None;
        };
        (*len > SMALL_BLOCK_LEN).then(|| {
            boot.fail(format!("'{file}' stalled at its first block of {len} bytes"))
                .because("small packets pass and full ones do not: the MTU of the path is smaller than that of its ends")
                .cure("give every switch, bridge and tunnel between machine and agent the MTU 1500")
        })
    })
}

/// Neither UEFI nor iPXE resumes.
fn broken_off(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| matches!(step, Step::Cut { .. }))?;
    let (file, way, sent) = boot.steps().rev().find_map(|step| match step {
        Step::Cut { file, way, sent_bytes, .. } => Some((file, way, sent_bytes)),
        _ => None,
    })?;
    let is_repaired = rest
        .iter()
        .any(|step| matches!(step, Step::Fetched { file: fetched, .. } if fetched == file));
    let by = match way {
        Way::Tftp => "TFTP",
        Way::Http => "HTTP",
    };
    (!is_repaired).then(|| {
        boot.fail(format!("'{file}' by {by} broke off after {sent} bytes"))
            .because("the machine left, or the network lost it; firmware does not resume")
            .cure("start the machine again; if it happens again, look at cable, switch port and duplex")
    })
}

fn postponed(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| matches!(step, Step::Fetched { .. }));
    let rest = rest.unwrap_or_else(|| boot.steps().collect());
    let waits: Vec<_> = rest
        .iter()
        .filter_map(|step| match step {
            Step::Postponed { file } => Some(file),
            _ => None,
        })
        .collect();
    let file = waits.last().filter(|_| waits.len() >= POSTPONED_MAX)?;
    let finding = boot
        .warn(format!("was asked {} times to come back later for '{file}'", waits.len()))
        .because("the site is still fetching the file, or cannot")
        .cure("`pureboot-agent status` tells how the line is; `pureboot-agent cache add` puts the file there by hand");
    Some(finding)
}

fn lock_step(boot: &Boot<'_>) -> Option<Finding> {
    boot.steps().rev().find_map(|step| {
        let Step::Fetched { file, size_bytes, duration_ms, window: Some(1), .. } = step else {
            return None;
        };
        let is_slow = *size_bytes >= LOCK_STEP_SIZE_BYTES && *duration_ms >= LOCK_STEP_DURATION_MS;
        is_slow.then(|| {
            boot.warn(format!("took {duration_ms} ms for the {size_bytes} bytes of '{file}'"))
                .because("its firmware asks for no window (RFC 7440), so each block waits for a round trip")
                .cure("boot it by UEFI HTTP, or load a small iPXE first and the rest by HTTP")
        })
    })
}

fn script_not_fetched(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| matches!(step, Step::ScriptOffered))?;
    let went_on = rest.iter().any(|step| is_progress(step));
    (!went_on && boot.is_quiet()).then(|| {
        boot.fail("runs iPXE, was told where its script is, and never asked for it")
            .because("the HTTP port of the agent does not reach it, or another DHCP server names a file")
            .cure("open the port of [boot] listen (8080/tcp) to machines; `pureboot-agent doctor --interface NAME` looks for other servers")
    })
}

#[cfg(test)]
mod tests;
