//! The shell of the doctor: asks the running agent, the host, the controller and the network, each with a limit, and lets the
//! pure checks judge. It takes no lock, so it works beside a running agent and without one.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dhcproto::v4::{CLIENT_PORT, SERVER_PORT};
use nix::unistd::geteuid;
use pureboot_protocol::{PolicyReport, Success};
use serde::de::DeserializeOwned;
use smol::{Async, LocalExecutor, Timer};
use socket2::{Domain, Protocol, Socket, Type};

use super::diagnose::diagnose;
use super::finding::{Diagnosis, Finding};
use super::host::{self, Interface};
use super::ports::{self, Transport, Wanted};
use super::servers::{self, Heard};
use super::{central, proc};
use crate::clock;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::dhcp;
use crate::dhcp::loaders::STOCK_CURE;
use crate::exchange::{ExchangeError, within};
use crate::manage::client::{AskError, ask_within};
use crate::session::route::{BootsPage, PAGE_LEN_MAX};
use crate::status::Report;
use crate::status::policies::{complaint, cure};
use crate::tftp::refusals::Refused;
use crate::uplink::controller::Controller;
use crate::uplink::floor::Floor;
use crate::uplink::tls;

/// For each of the two questions to the running agent.
const AGENT_PATIENCE: Duration = Duration::from_millis(1_500);
/// For what this host tells of itself: a disk that hangs must not hang the doctor.
const HOST_PATIENCE: Duration = Duration::from_secs(2);
/// For the name of the controller, and for its answer.
const DNS_PATIENCE: Duration = Duration::from_millis(1_500);
const CONTROLLER_PATIENCE: Duration = Duration::from_millis(2_500);
/// For DHCP servers to answer, and when they are asked a second time.
const SERVERS_PATIENCE: Duration = Duration::from_secs(3);
const SERVERS_ASK_AGAIN: Duration = Duration::from_secs(1);
/// Answers that are read on one interface.
const ANSWERS_MAX: usize = 64;
const DATAGRAM_LEN_MAX: usize = 2_048;

/// What a person asked the doctor to look at.
#[derive(Debug, Clone)]
pub struct Visit {
    /// The agent's data directory.
    pub data_dir: PathBuf,
    /// Interfaces on which other DHCP servers are looked for, besides those of `[dhcp]`.
    pub interfaces: Vec<String>,
}

/// What the running agent says.
enum Agent {
    Running { report: Box<Report>, boots: Result<BootsPage, AskError> },
    Away,
}

/// What is known of the settings; without them only the host can be looked at.
struct Settings {
    data_dir: DataDir,
    config: Config,
}

/// Looks at everything. It takes 10 s at the most.
pub fn examine(visit: &Visit) -> Diagnosis {
    let mut findings = Vec::new();
    let settings = match load(&visit.data_dir) {
        Ok(settings) => {
            let path = settings.data_dir.config_file();
            findings.push(Finding::ok("settings", format!("{} holds", path.display())));
            Some(settings)
        }
        Err(finding) => {
            findings.push(finding);
            None
        }
    };
    let agent = settings.as_ref().map_or(Agent::Away, |settings| {
        let (agent, finding) = ask_agent(&settings.data_dir.socket());
        findings.push(finding);
        agent
    });
    let executor = Rc::new(LocalExecutor::new());
    #[expect(clippy::disallowed_methods, reason = "shell: the command line's one wait")]
    smol::block_on(executor.run(async {
        let config = settings.as_ref().map(|settings| settings.config.clone());
        findings.extend(look_at_host(visit, config.clone(), &agent).await);
        let controller = look_at_controller(&executor, settings.as_ref());
        let servers = look_for_servers(visit, config.as_ref());
        let ((mut called, offset_s), served) = smol::future::zip(controller, servers).await;
        let keeper = host_fact(proc::clock_keeper).await.flatten();
        findings.push(host::judge_clock(clock::now(), keeper.as_deref(), offset_s));
        findings.append(&mut called);
        findings.extend(served);
    }));
    findings.push(judge_loaders(&agent, settings.is_some_and(|it| it.config.dhcp.enabled)));
    findings.extend(judge_refusals(&agent));
    findings.extend(judge_policies(&agent));
    findings.extend(judge_boots(&agent));
    Diagnosis::new(findings)
}

fn load(root: &Path) -> Result<Settings, Finding> {
    let name = "settings";
    if !root.exists() {
        return Err(Finding::fail(name, format!("there is no {}", root.display()))
            .cure("run `pureboot-agent init`, or name another --data-dir"));
    }
    let loaded = DataDir::open(root).and_then(|data_dir| {
        let config = Config::load(&data_dir)?;
        Ok(Settings { data_dir, config })
    });
    loaded.map_err(|error| {
        Finding::fail(name, format!("{error:#}")).cure(
            "run the doctor as the agent's user, or correct it: `pureboot-agent check-config`",
        )
    })
}

fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    ask_within::<Success<T>>(socket, path, AGENT_PATIENCE).map(|answer| answer.data)
}

fn ask_agent(socket: &Path) -> (Agent, Finding) {
    let name = "agent";
    let report: Report = match ask(socket, "/api/v1/agent/status") {
        Ok(report) => report,
        Err(error @ AskError::NotRunning { .. }) => {
            return (Agent::Away, Finding::warn(name, error.to_string()));
        }
        Err(error) => {
            let finding = Finding::fail(name, error.to_string())
                .cure("restart it; a disk that hangs shows in `dmesg`");
            return (Agent::Away, finding);
        }
    };
    let what = format!("{} runs for {} s", report.agent_version, report.uptime_seconds);
    let path = format!("/api/v1/agent/boots?limit={PAGE_LEN_MAX}");
    let boots = ask_within(socket, &path, AGENT_PATIENCE);
    (Agent::Running { report: Box::new(report), boots }, Finding::ok(name, what))
}

/// A fact of this host; none if that takes too long.
async fn host_fact<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let looked = async { Some(smol::unblock(look).await) };
    let late = async {
        Timer::after(HOST_PATIENCE).await;
        None
    };
    smol::future::or(looked, late).await
}

async fn look_at_host(visit: &Visit, config: Option<Config>, agent: &Agent) -> Vec<Finding> {
    let mut findings = Vec::new();
    let services = match agent {
        Agent::Running { report, .. } => Some(report.services.clone()),
        Agent::Away => None,
    };
    let data_dir = visit.data_dir.clone();
    let named = named_interfaces(visit, config.as_ref());
    let looked = host_fact(move || {
        let mut findings = Vec::new();
        match (&services, &config) {
            (Some(services), _) => findings.extend(services.iter().map(|(name, service)| {
                let name = format!("service {name}");
                if service.running {
                    Finding::ok(name, format!("the agent listens on {}", service.address))
                } else {
                    Finding::fail(name, format!("does not run on {}", service.address))
                        .cure("restart the agent")
                }
            })),
            (None, Some(config)) => findings.extend(look_at_ports(config)),
            (None, None) => {}
        }
        if let (None, Some(config)) = (&services, &config) {
            let lowest = config.tftp.listen.port().min(config.boot.listen.port());
            let needs_device = config.dhcp.enabled;
            let lowest = if needs_device { lowest.min(SERVER_PORT) } else { lowest };
            let from = proc::unprivileged_from();
            let is_root = geteuid().is_root();
            let status = proc::own_status();
            findings.push(host::judge_rights(is_root, &status, from, lowest, needs_device));
        }
        findings.push(match proc::disk(&data_dir) {
            Ok(disk) => host::judge_disk(&disk),
            Err(error) => Finding::skipped("disk", format!("cannot look at it: {error}")),
        });
        findings.extend(host::judge_interfaces(&proc::interfaces(), &named));
        findings
    });
    match looked.await {
        Some(looked) => findings.extend(looked),
        None => findings.push(
            Finding::fail("disk", "this host does not tell how it is within 2 s")
                .cure("a disk or mount hangs: see `dmesg`"),
        ),
    }
    findings
}

/// Those of `[dhcp]` and those that the person named.
fn named_interfaces(visit: &Visit, config: Option<&Config>) -> Vec<String> {
    let dhcp = config.map(|config| &config.dhcp).filter(|dhcp| dhcp.enabled);
    let mut named = dhcp.map(|dhcp| dhcp.interfaces.clone()).unwrap_or_default();
    named.extend(visit.interfaces.iter().cloned());
    named.sort_unstable();
    named.dedup();
    named
}

/// Whether the agent, which does not run, would get its ports.
fn look_at_ports(config: &Config) -> Vec<Finding> {
    let wanted = [
        Wanted { address: config.tftp.listen, transport: Transport::Udp },
        Wanted { address: config.boot.listen, transport: Transport::Tcp },
    ];
    let mut findings: Vec<_> = wanted
        .iter()
        .map(|wanted| ports::judge(wanted, proc::try_bind(wanted), &proc::holders(wanted)))
        .collect();
    let dhcp = [SERVER_PORT, dhcp::answer::BOOT_SERVER_PORT].map(|port| Wanted {
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        transport: Transport::Udp,
    });
    let holders: Vec<_> = dhcp
        .iter()
        .flat_map(|wanted| {
            let name = wanted.name();
            proc::holders(wanted)
                .into_iter()
                .map(move |holder| format!("{} (process {}) has {name}", holder.name, holder.pid))
        })
        .collect();
    let name = "ports 67 and 4011/udp";
    findings.push(match config.dhcp.enabled.then(|| dhcp::serve::bind(&config.dhcp.interfaces)) {
        None => Finding::ok(name, "not needed, [dhcp] is off"),
        Some(Ok(_)) => Finding::ok(name, format!("free on {}", config.dhcp.interfaces.join(", "))),
        Some(Err(error)) if holders.is_empty() => Finding::fail(name, format!("{error:#}")),
        Some(Err(error)) => Finding::fail(name, format!("{}: {error:#}", holders.join(", "))),
    });
    findings
}

/// Name, connection, trust and answer; and how far this clock is ahead of the controller's.
async fn look_at_controller(
    executor: &Rc<LocalExecutor<'static>>,
    settings: Option<&Settings>,
) -> (Vec<Finding>, Option<i64>) {
    let Some(Settings { data_dir, config }) = settings else {
        let finding = Finding::skipped("controller", "its address stands in the settings");
        return (vec![finding], None);
    };
    let url = &config.central_url;
    let mut findings = Vec::new();
    let resolved = within(DNS_PATIENCE, async {
        Ok::<_, ExchangeError>(smol::net::resolve((url.host(), url.port())).await)
    });
    let failure = match resolved.await {
        Ok(Ok(addresses)) => {
            let addresses: BTreeSet<_> = addresses.iter().map(|at| at.ip().to_string()).collect();
            let addresses: Vec<_> = addresses.into_iter().collect();
            findings
                .push(Finding::ok("dns", format!("{} is {}", url.host(), addresses.join(", "))));
            None
        }
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(failure) = failure {
        let finding = Finding::fail("dns", format!("'{}' has no address: {failure}", url.host()))
            .cure("correct central_url, or the name server in /etc/resolv.conf");
        return (vec![finding], None);
    }
    let floor = Arc::new(Floor::load(data_dir));
    let connector = match tls::connector_by(config.ca_file.as_deref(), floor) {
        Ok(connector) => connector,
        Err(error) => {
            findings
                .push(Finding::fail("controller", format!("{error:#}")).cure("correct ca_file"));
            return (findings, None);
        }
    };
    let controller = Controller::new(Rc::clone(executor), url.clone(), connector);
    let outcome = controller.look(CONTROLLER_PATIENCE).await;
    let offset_s =
        outcome.as_ref().ok().and_then(|answer| central::clock_offset_s(answer, clock::now()));
    findings.push(central::judge(url, &outcome));
    (findings, offset_s)
}

/// Asks on each interface at once who leases addresses and who names boot files.
async fn look_for_servers(visit: &Visit, config: Option<&Config>) -> Vec<Finding> {
    let named = named_interfaces(visit, config);
    if named.is_empty() {
        let what = "not looked for: name an interface with --interface, or in [dhcp]";
        return vec![Finding::skipped("dhcp servers", what)];
    }
    let is_proxy_on = config.is_some_and(|config| config.dhcp.enabled);
    let interfaces = host_fact(proc::interfaces).await.unwrap_or_default();
    let executor = LocalExecutor::new();
    let asked: Vec<_> =
        named.iter().map(|name| executor.spawn(ask_servers(name.clone()))).collect();
    let collect = async {
        let mut findings = Vec::new();
        for (name, task) in named.iter().zip(asked) {
            match task.await {
                Ok(heard) => {
                    let own = own_addresses(&interfaces, name);
                    findings.extend(servers::judge(name, &heard, &own, is_proxy_on));
                }
                Err(error) => findings.push(unasked(name, &error)),
            }
        }
        findings
    };
    executor.run(collect).await
}

fn own_addresses(interfaces: &[Interface], name: &str) -> Vec<Ipv4Addr> {
    let own = interfaces.iter().filter(|interface| interface.name == name);
    own.flat_map(|interface| interface.addresses.iter().map(|(address, _)| *address)).collect()
}

fn unasked(interface: &str, error: &io::Error) -> Finding {
    let name = format!("dhcp {interface}");
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Finding::skipped(name, "other servers are not looked for: that needs root")
        }
        io::ErrorKind::AddrInUse => Finding::skipped(
            name,
            "other servers are not looked for: a DHCP client of this host has port 68",
        ),
        _ => Finding::skipped(name, format!("other servers are not looked for: {error}")),
    }
}

async fn ask_servers(interface: String) -> io::Result<BTreeSet<Heard>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    // A DHCP client of this host that shares its port goes on hearing broadcasts.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
    let socket = Async::new(UdpSocket::from(socket))?;
    let mut random = [0; 7];
    getrandom::fill(&mut random)?;
    let [a, b, c, xid @ ..] = random;
    let xid = u32::from_be_bytes(xid);
    let question = servers::discover(servers::probe_address([a, b, c]), xid);
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
    socket.send_to(&question, everybody).await?;
    let mut heard = BTreeSet::new();
    let listen = async {
        let mut buffer = [0; DATAGRAM_LEN_MAX];
        for _ in 0..ANSWERS_MAX {
            let (len, source) = socket.recv_from(&mut buffer).await?;
            let SocketAddr::V4(source) = source else { continue };
            let datagram = buffer.get(..len).unwrap_or_default();
            heard.extend(servers::parse_answer(datagram, xid, *source.ip()));
        }
        Ok(())
    };
    let end = async {
        Timer::after(SERVERS_ASK_AGAIN).await;
        // The first question may have been lost; the second is worth no failure.
        _ = socket.send_to(&question, everybody).await;
        Timer::after(SERVERS_PATIENCE - SERVERS_ASK_AGAIN).await;
        Ok(())
    };
    smol::future::or(listen, end).await.map(|()| heard)
}

fn judge_loaders(agent: &Agent, is_proxy_on: bool) -> Finding {
    let name = "loaders";
    let Agent::Running { report, .. } = agent else {
        return Finding::skipped(name, "the agent that could tell which are there does not run");
    };
    let stock = &report.loaders;
    let Some(missing) = stock.complaint() else {
        let held = stock.held.len();
        return Finding::ok(
            name,
            if is_proxy_on {
                format!("all {held} are there")
            } else {
                format!("{held} are there, and no machine has asked for one that is not")
            },
        );
    };
    let finding = if stock.held.is_empty() && is_proxy_on {
        Finding::fail(name, format!("there is none; missing are {missing}"))
    } else {
        Finding::warn(name, format!("missing: {missing}"))
    };
    finding.cure(STOCK_CURE)
}

/// TFTP requests that got no answer. None is a line of its own where there are none.
fn judge_refusals(agent: &Agent) -> Vec<Finding> {
    let Agent::Running { report, .. } = agent else { return Vec::new() };
    let finding = |refused: &Refused| {
        let Refused { reason, count, last_from, last_at } = refused;
        let what =
            format!("{count} requests got no answer, the last from {last_from} at {last_at}");
        let finding = Finding::warn("tftp requests", what).because(reason.to_string());
        match reason.cure() {
            Some(cure) => finding.cure(cure),
            None => finding,
        }
    };
    report.tftp_refused.iter().map(finding).collect()
}

/// Policies that do not run as they should. None is a line of its own where there are none.
fn judge_policies(agent: &Agent) -> Vec<Finding> {
    let Agent::Running { report, .. } = agent else { return Vec::new() };
    let finding = |policy: &PolicyReport| {
        let what = complaint(policy)?;
        Some(Finding::warn("policies", what).cure(cure(policy)))
    };
    report.policies.iter().filter_map(finding).collect()
}

fn judge_boots(agent: &Agent) -> Vec<Finding> {
    let name = "boots";
    let page = match agent {
        Agent::Running { boots: Ok(page), .. } => page,
        Agent::Running { boots: Err(error), .. } => {
            return vec![Finding::skipped(name, error.to_string())];
        }
        Agent::Away => {
            return vec![Finding::skipped(name, "the agent that has seen them does not run")];
        }
    };
    let sessions: Vec<_> = page.data.iter().map(|view| &view.session).collect();
    match diagnose(&sessions, clock::now()) {
        findings if findings.is_empty() => {
            vec![Finding::ok(name, format!("{} seen lately, nothing wrong", sessions.len()))]
        }
        findings => findings,
    }
}
