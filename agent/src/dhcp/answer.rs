//! From a DHCP request to the answer that names a loader, or to the reason for silence.
//!
//! Without I/O: one call of [`Answerer::handle_packet`] per datagram, which answers at once from tables and memory. It never
//! waits for the disk, the controller or a plugin, because a late offer is a lost boot: iPXE waits 2 s for one.

mod emit;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Instant;

use dhcproto::v4::{CLIENT_PORT, MessageType, SERVER_PORT};
pub use pureboot_protocol::session::step::BOOT_SERVER_PORT;
use pureboot_protocol::{Category, Mac};

use self::emit::{destination, emit};
use super::arch::{self, Claims, Correction, Family, Identity, Unserved};
use super::loaders::{LoaderFile, LoaderKind, Loaders};
use super::packet::{ParseError, Request};
use super::quirks::operator::{OperatorQuirk, Traits};
use super::quirks::{self, Learned, Lesson, OfferMode, Sight};
use super::recent::Recent;

/// How much of an unknown vendor class a report quotes, in bytes.
const CLASS_LEN_SHOWN: usize = 64;

/// The port that a datagram came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// 67.
    Dhcp,
    /// 4011.
    BootServer,
}

impl Port {
    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            Self::Dhcp => SERVER_PORT,
            Self::BootServer => BOOT_SERVER_PORT,
        }
    }
}

/// A datagram and how it came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Its bytes.
    pub datagram: &'a [u8],
    /// Who sent it.
    pub source: SocketAddrV4,
    /// Where it came in.
    pub port: Port,
    /// Our address on the interface that it came in on.
    pub address: Ipv4Addr,
    /// What programs of the machine have called themselves over HTTP.
    pub user_agents: &'a [Box<str>],
}

/// Whom a packet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The machine.
    pub mac: Mac,
    /// Its transaction.
    pub xid: u32,
    /// The address that it has, or that it asks the server that leases addresses for.
    pub address: Option<Ipv4Addr>,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (xid {:08x})", self.mac, self.xid)
    }
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Everybody on the link: the machine has no address yet.
    Broadcast,
    /// The machine at the address that it says it has.
    Machine(Ipv4Addr),
    /// The relay that forwarded the request.
    Relay(Ipv4Addr),
    /// Where the request came from.
    Source(SocketAddrV4),
}

impl Destination {
    /// The address and the port.
    pub fn address(self) -> SocketAddrV4 {
        match self {
            Self::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
            Self::Machine(address) => SocketAddrV4::new(address, CLIENT_PORT),
            Self::Relay(address) => SocketAddrV4::new(address, SERVER_PORT),
            Self::Source(source) => source,
        }
    }
}

/// How iPXE was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpxeSign {
    /// Its own options (175).
    Options,
    /// Its user class (77).
    UserClass,
    /// The bare class `PXEClient` of a machine whose firmware was just offered a loader under its full class.
    BareClass,
    /// It came back from the same loader again and again.
    Loop,
}

/// What an answer tells a machine to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A loader.
    Loader {
        /// What the machine was taken for.
        identity: Identity,
        /// The form of the offer; none over HTTP, which has only one.
        mode: Option<OfferMode>,
    },
    /// The file that the operator names for a machine that has no loader by its architecture.
    Named {
        /// The code that it says.
        code: Option<u16>,
        /// The form of the offer; none over HTTP, which has only one.
        mode: Option<OfferMode>,
    },
    /// The script, because it is iPXE that asks.
    Script(IpxeSign),
}

impl Boot {
    /// The form of the offer, where there are several.
    pub fn mode(&self) -> Option<OfferMode> {
        match self {
            Self::Loader { mode, .. } | Self::Named { mode, .. } => *mode,
            Self::Script(_) => None,
        }
    }

    /// The architecture that the machine says, where that matters.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Loader { identity, .. } => identity.code,
            Self::Named { code, .. } => *code,
            Self::Script(_) => None,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its bytes.
    pub packet: Vec<u8>,
    /// Where to send them, from the port on which the request came in.
    pub destination: Destination,
    /// Whom it answers.
    pub client: Client,
    /// What it makes the machine do.
    pub boot: Boot,
    /// The file name or URL that it names.
    pub file: String,
    /// What the request taught about the machine.
    pub lesson: Option<Lesson>,
}

/// Why a packet gets no answer. The text is a sentence for the log and the report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Not a request of a machine.
    #[error(transparent)]
    Unreadable(#[from] ParseError),
    /// Not a machine that wants to boot.
    #[error("the request is not for booting (vendor class '{0}')")]
    NotBooting(String),
    /// A message for the server that leases addresses.
    #[error("{0:?} on port {1} is for the DHCP server that leases addresses")]
    NotForUs(MessageType, u16),
    /// A machine that we have nothing for.
    #[error(transparent)]
    Unserved(#[from] Unserved),
    /// A machine whose loader the site does not have.
    #[error("the site serves no loader for {0}; name one in [dhcp.loaders]")]
    NoLoader(LoaderKind),
    /// A machine that the operator has excluded.
    #[error("[[dhcp.quirk]] refuses this machine")]
    RefusedByOperator,
    /// An address that no machine and no relay has.
    #[error("an answer cannot go to {0}")]
    Destination(Ipv4Addr),
    /// One machine asks too often.
    #[error("the machine asks more often than every 500 ms")]
    TooOften,
}

/// A packet that gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Who asked, where that could be read.
    pub client: Option<Client>,
    /// Why.
    pub reason: Reason,
    /// What the request taught about the machine.
    pub lesson: Option<Lesson>,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client {
            Some(client) => write!(f, "no answer to {client}: {}", self.reason),
            None => write!(f, "no answer: {}", self.reason),
        }
    }
}

/// Answers the machines of a site.
#[derive(Debug)]
pub struct Answerer {
    loaders: Loaders,
    quirks: Vec<Rc<OperatorQuirk>>,
    http_port: u16,
    learned: Learned,
    recent: Recent,
}

/// A request, and what it was recognised by.
struct Asked<'a> {
    request: &'a Request,
    sign: Option<IpxeSign>,
    /// The operator's entry for this machine.
    quirk: Option<Rc<OperatorQuirk>>,
}

/// The choice that an answer carries out.
struct Choice {
    boot: Boot,
    family: Family,
    file: String,
}

impl Answerer {
    /// Answers with these loaders, with URLs on this port of the address that the machine sees, and with what was learned
    /// before.
    pub fn new(
        loaders: Loaders,
        http_port: u16,
        lessons: impl IntoIterator<Item = Lesson>,
    ) -> Self {
        let learned = Learned::restore(lessons);
        Self { loaders, quirks: Vec::new(), http_port, learned, recent: Recent::default() }
    }

    /// Obeys the operator's entries before everything else.
    #[must_use]
    pub fn with_quirks(self, quirks: Vec<OperatorQuirk>) -> Self {
        Self { quirks: quirks.into_iter().map(Rc::new).collect(), ..self }
    }

    /// Takes note that a machine has fetched something by TFTP or HTTP.
    pub fn handle_fetch(&mut self, mac: Mac, now: Instant) -> Option<Lesson> {
        self.recent.note_gone_on(mac);
        self.learned.learn(mac, Sight::WentOn, now)
    }

    /// Answers a datagram.
    ///
    /// # Errors
    /// The sender gets nothing; the reason is for the log and the report.
    pub fn handle_packet(&mut self, arrival: &Arrival<'_>, now: Instant) -> Result<Reply, Silence> {
        let request = Request::parse(arrival.datagram).map_err(|error| Silence {
            client: None,
            reason: error.into(),
            lesson: None,
        })?;
        let client = Client { mac: request.mac, xid: request.xid, address: address_of(&request) };
        let sign = self.ipxe_sign(&request, now);
        let sight = sight(&request, arrival.port, sign);
        let lesson = sight.and_then(|sight| self.learned.learn(request.mac, sight, now));
        if matches!(sight, Some(Sight::Leased | Sight::WentOn)) {
            self.recent.note_gone_on(request.mac);
        }
        let quirk = self.operator_quirk(&request, arrival.user_agents);
        let asked = Asked { request: &request, sign, quirk };
        match self.answer(&asked, arrival, now) {
            Ok((Choice { boot, file, .. }, destination, packet)) => {
                Ok(Reply { packet, destination, client, boot, file, lesson })
            }
            Err(reason) => Err(Silence { client: Some(client), reason, lesson }),
        }
    }

    fn answer(
        &mut self,
        asked: &Asked<'_>,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<(Choice, Destination, Vec<u8>), Reason> {
        let request = asked.request;
        if !is_booting(request) {
            let class = request.class.get(..CLASS_LEN_SHOWN).unwrap_or(&request.class);
            return Err(Reason::NotBooting(class.escape_ascii().to_string()));
        }
        let kind = match (request.kind, arrival.port) {
            (MessageType::Discover, Port::Dhcp) => MessageType::Offer,
            (MessageType::Inform, _) | (MessageType::Request, Port::BootServer) => MessageType::Ack,
            (kind, port) => return Err(Reason::NotForUs(kind, port.number())),
        };
        let destination = destination(request, arrival)?;
        if !self.recent.admit(request.mac, now) {
            return Err(Reason::TooOften);
        }
        let choice = self.choose(asked, arrival.address, now)?;
        if kind == MessageType::Offer {
            self.note_offer(asked, &choice.boot, now);
        }
        let packet = emit(request, kind, &choice, arrival.address);
        Ok((choice, destination, packet))
    }

    fn note_offer(&mut self, asked: &Asked<'_>, boot: &Boot, now: Instant) {
        let request = asked.request;
        if let Boot::Loader { identity, .. } = boot {
            let transaction = (request.xid, request.secs);
            let is_full_class = !is_bare_class(request);
            self.recent.note_start(request.mac, identity.loader, transaction, is_full_class, now);
        }
        // What the operator has settled teaches nothing.
        let is_settled = asked.quirk.as_ref().is_some_and(|quirk| quirk.mode.is_some());
        if let Some(mode) = boot.mode().filter(|_| !is_settled) {
            self.learned.learn(request.mac, Sight::Offered(mode), now);
        }
    }

    /// What the machine is told to load.
    fn choose(&mut self, asked: &Asked<'_>, us: Ipv4Addr, now: Instant) -> Result<Choice, Reason> {
        let Asked { request, quirk, .. } = asked;
        if quirk.as_ref().is_some_and(|quirk| quirk.refuse) {
            return Err(Reason::RefusedByOperator);
        }
        if let Some(sign) = asked.sign {
            self.recent.note_ipxe(request.mac);
            let family = arch::family_of(&request.class).unwrap_or(Family::Pxe);
            return Ok(self.script(sign, family, us));
        }
        let named = quirk.as_ref().and_then(|quirk| quirk.file.as_ref());
        let identified = arch::identify(&Claims {
            mac: request.mac,
            class: &request.class,
            codes: &request.codes,
            undi: request.undi,
        });
        let identity = match (identified, named) {
            (Ok(identity), _) => identity,
            (Err(_), Some(file)) => return Ok(self.named(asked, file, us)),
            (Err(unserved), None) => return Err(unserved.into()),
        };
        // EDK2 comes to port 4011 with another transaction, which is not another start.
        let is_loop = match request.kind {
            MessageType::Discover => {
                self.recent.breaks_loop(request.mac, identity.loader, request.xid, now)
            }
            _ => self.recent.has_broken_loop(request.mac),
        };
        if is_loop {
            return Ok(self.script(IpxeSign::Loop, identity.family, us));
        }
        let file = named
            .or_else(|| self.loaders.get(identity.loader))
            .ok_or(Reason::NoLoader(identity.loader))?;
        let Identity { family, code, .. } = identity;
        let (file, mode) = self.offer(asked, family, code, file, us);
        Ok(Choice { boot: Boot::Loader { identity, mode }, family, file })
    }

    /// The file that the operator names for a machine of which nothing else is known than that it boots.
    fn named(&self, asked: &Asked<'_>, file: &LoaderFile, us: Ipv4Addr) -> Choice {
        let request = asked.request;
        let family = arch::family_of(&request.class).unwrap_or(Family::Pxe);
        let code = request.codes.first().copied();
        let (file, mode) = self.offer(asked, family, code, file, us);
        Choice { boot: Boot::Named { code, mode }, family, file }
    }

    /// How `file` is named to a machine, and in which form of offer.
    fn offer(
        &self,
        asked: &Asked<'_>,
        family: Family,
        code: Option<u16>,
        file: &LoaderFile,
        us: Ipv4Addr,
    ) -> (String, Option<OfferMode>) {
        match family {
            Family::Http => (self.loader_url(us, file), None),
            Family::Pxe => (file.to_string(), Some(self.mode(asked, code))),
        }
    }

    fn ipxe_sign(&self, request: &Request, now: Instant) -> Option<IpxeSign> {
        if request.has_ipxe_options {
            Some(IpxeSign::Options)
        } else if request.has_ipxe_class {
            Some(IpxeSign::UserClass)
        } else if is_bare_class(request) && self.recent.has_started(request.mac, now) {
            Some(IpxeSign::BareClass)
        } else {
            None
        }
    }

    fn mode(&self, asked: &Asked<'_>, code: Option<u16>) -> OfferMode {
        let request = asked.request;
        let settled = asked.quirk.as_ref().and_then(|quirk| quirk.mode);
        settled.or_else(|| self.learned.mode(request.mac)).unwrap_or_else(|| {
            let quirk = quirks::find(request.mac, &request.class, code);
            quirk.map_or(OfferMode::Direct, |quirk| quirk.mode)
        })
    }

    fn operator_quirk(
        &self,
        request: &Request,
        user_agents: &[Box<str>],
    ) -> Option<Rc<OperatorQuirk>> {
        let Request { mac, class, user_class, codes, .. } = request;
        let traits = Traits { mac: *mac, class, user_class, codes, user_agents };
        let mut about_offers = self.quirks.iter().filter(|quirk| quirk.is_about_offers());
        about_offers.find(|quirk| quirk.matches(&traits)).cloned()
    }

    fn script(&self, sign: IpxeSign, family: Family, us: Ipv4Addr) -> Choice {
        let file = format!("http://{us}:{}/boot.ipxe", self.http_port);
        Choice { boot: Boot::Script(sign), family, file }
    }

    // BOOT §5: an address and not a name, because a name needs a name server in the lease.
    fn loader_url(&self, us: Ipv4Addr, file: &LoaderFile) -> String {
        format!("http://{us}:{}/files/{}/{file}", self.http_port, Category::Bootloaders)
    }
}

/// The address that a machine has or is about to have. What it asks for in a DISCOVER is the memory of an earlier lease.
fn address_of(request: &Request) -> Option<Ipv4Addr> {
    let requested = request.requested.filter(|_| request.kind == MessageType::Request);
    Some(request.ciaddr).filter(|address| !address.is_unspecified()).or(requested)
}

fn is_bare_class(request: &Request) -> bool {
    request.class == Family::Pxe.class().as_bytes()
}

fn is_booting(request: &Request) -> bool {
    arch::family_of(&request.class).is_some()
        || arch::is_uboot_class(&request.class)
        || request.has_ipxe_options
        || request.has_ipxe_class
}

/// What a request shows about the offer before it.
fn sight(request: &Request, port: Port, sign: Option<IpxeSign>) -> Option<Sight> {
    match (request.kind, port) {
        _ if !is_booting(request) => None,
        // The loader that the firmware was offered runs.
        (MessageType::Discover, _) if sign.is_some() => Some(Sight::WentOn),
        (MessageType::Discover, _) => Some(Sight::Asked),
        (MessageType::Request, Port::Dhcp) => Some(Sight::Leased),
        (MessageType::Request, Port::BootServer) => Some(Sight::WentOn),
        _ => None,
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let correction = match self {
            Self::Script(sign) => {
                return f.write_str(match sign {
                    IpxeSign::Options => "iPXE (option 175)",
                    IpxeSign::UserClass => "iPXE (user class)",
                    IpxeSign::BareClass => "iPXE (bare class after a loader)",
                    IpxeSign::Loop => "loop guard: the same loader three times in two minutes",
                });
            }
            Self::Loader { identity, .. } => {
                write!(f, "{}", identity.loader)?;
                identity.correction
            }
            Self::Named { .. } => {
                f.write_str("by [[dhcp.quirk]]")?;
                None
            }
        };
        f.write_str(match self.mode() {
            None => " over HTTP",
            Some(OfferMode::Direct) => " over TFTP",
            Some(OfferMode::BootServer) => " over TFTP, by port 4011",
            Some(OfferMode::PiMenu) => " over TFTP, with the menu of a Raspberry Pi",
        })?;
        f.write_str(match correction {
            None => "",
            Some(Correction::UbootSwap) => ", U-Boot having its code swapped",
            Some(Correction::UbootClass) => ", by the class of U-Boot",
            Some(Correction::RaspberryPi) => ", by the address of a Raspberry Pi",
            Some(Correction::Absent) => ", without an architecture (option 93)",
        })
    }
}

#[cfg(test)]
mod tests;
