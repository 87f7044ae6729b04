//! From a DHCP request to the answer that names a loader, or to the reason for silence.
//!
//! Without I/O: one call of [`Answerer::handle_packet`] per datagram, which answers at once from tables and memory. It never
//! waits for the disk, the controller or a plugin, because a late offer is a lost boot: iPXE waits 2 s for one.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use dhcproto::Encodable;
use dhcproto::v4::{
    CLIENT_PORT, DhcpOption, Flags, MIN_PACKET_SIZE, Message, MessageType, Opcode, OptionCode,
    SERVER_PORT,
};
use pureboot_protocol::{Category, Mac};

use super::arch::{self, Claims, Correction, Family, Identity, Unserved};
use super::loaders::{LOADER_FILE_LEN_MAX, LoaderFile, LoaderKind, Loaders};
use super::packet::{ParseError, Request};
use super::quirks::operator::OperatorQuirk;
use super::quirks::{self, Learned, Lesson, OfferMode, Sight};
use super::recent::Recent;

/// Where PXE clients ask a boot server for their file (PXE 2.1 §2.2.3).
pub const BOOT_SERVER_PORT: u16 = 4011;

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
    /// The script, because it is iPXE that asks.
    Script(IpxeSign),
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
    quirks: Vec<OperatorQuirk>,
    http_port: u16,
    learned: Learned,
    recent: Recent,
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
        Self { quirks, ..self }
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
        match self.answer(&request, arrival, sign, now) {
            Ok((Choice { boot, file, .. }, destination, packet)) => {
                Ok(Reply { packet, destination, client, boot, file, lesson })
            }
            Err(reason) => Err(Silence { client: Some(client), reason, lesson }),
        }
    }

    fn answer(
        &mut self,
        request: &Request,
        arrival: &Arrival<'_>,
        sign: Option<IpxeSign>,
        now: Instant,
    ) -> Result<(Choice, Destination, Vec<u8>), Reason> {
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
        let choice = self.choose(request, sign, arrival.address, now)?;
        if let (MessageType::Offer, Boot::Loader { identity, mode }) = (kind, &choice.boot) {
            let transaction = (request.xid, request.secs);
            let is_full_class = !is_bare_class(request);
            self.recent.note_start(request.mac, identity.loader, transaction, is_full_class, now);
            // What the operator has settled teaches nothing.
            let is_settled = self.operator_quirk(request).is_some_and(|quirk| quirk.mode.is_some());
            if let Some(mode) = mode.filter(|_| !is_settled) {
                self.learned.learn(request.mac, Sight::Offered(mode), now);
            }
        }
        let packet = emit(request, kind, &choice, arrival.address);
        Ok((choice, destination, packet))
    }

    /// What the machine is told to load.
    fn choose(
        &mut self,
        request: &Request,
        sign: Option<IpxeSign>,
        us: Ipv4Addr,
        now: Instant,
    ) -> Result<Choice, Reason> {
        if self.operator_quirk(request).is_some_and(|quirk| quirk.refuse) {
            return Err(Reason::RefusedByOperator);
        }
        if let Some(sign) = sign {
            self.recent.note_ipxe(request.mac);
            let family = arch::family_of(&request.class).unwrap_or(Family::Pxe);
            return Ok(self.script(sign, family, us));
        }
        let identity = arch::identify(&Claims {
            mac: request.mac,
            class: &request.class,
            codes: &request.codes,
            undi: request.undi,
        })?;
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
        let file = self
            .operator_quirk(request)
            .and_then(|quirk| quirk.file.as_ref())
            .or_else(|| self.loaders.get(identity.loader))
            .ok_or(Reason::NoLoader(identity.loader))?;
        let (file, mode) = match identity.family {
            Family::Http => (self.loader_url(us, file), None),
            Family::Pxe => (file.to_string(), Some(self.mode(request, identity.code))),
        };
        Ok(Choice { boot: Boot::Loader { identity, mode }, family: identity.family, file })
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

    fn mode(&self, request: &Request, code: Option<u16>) -> OfferMode {
        let settled = self.operator_quirk(request).and_then(|quirk| quirk.mode);
        settled.or_else(|| self.learned.mode(request.mac)).unwrap_or_else(|| {
            let quirk = quirks::find(request.mac, &request.class, code);
            quirk.map_or(OfferMode::Direct, |quirk| quirk.mode)
        })
    }

    fn operator_quirk(&self, request: &Request) -> Option<&OperatorQuirk> {
        self.quirks.iter().find(|quirk| quirk.matches(request.mac, &request.class, &request.codes))
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

/// Where the answer goes (RFC 2131 §4.1; PXE 2.1 §2.2.3 for port 4011).
fn destination(request: &Request, arrival: &Arrival<'_>) -> Result<Destination, Reason> {
    let is_machine = |address: Ipv4Addr| {
        !(address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
            || address.is_loopback()
            || address == arrival.address)
    };
    let (address, destination) = match arrival.port {
        Port::BootServer if arrival.source.ip().is_unspecified() => {
            return Ok(Destination::Broadcast);
        }
        Port::BootServer => (*arrival.source.ip(), Destination::Source(arrival.source)),
        Port::Dhcp if !request.giaddr.is_unspecified() => {
            (request.giaddr, Destination::Relay(request.giaddr))
        }
        Port::Dhcp if !request.ciaddr.is_unspecified() => {
            (request.ciaddr, Destination::Machine(request.ciaddr))
        }
        Port::Dhcp => return Ok(Destination::Broadcast),
    };
    let has_port = destination.address().port() != 0;
    if is_machine(address) && has_port {
        Ok(destination)
    } else {
        Err(Reason::Destination(address))
    }
}

/// The bytes of an answer.
fn emit(request: &Request, kind: MessageType, choice: &Choice, us: Ipv4Addr) -> Vec<u8> {
    let ciaddr = match kind {
        MessageType::Ack => request.ciaddr,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let unassigned = Ipv4Addr::UNSPECIFIED;
    let mac = request.mac.as_bytes();
    let mut message =
        Message::new_with_id(request.xid, ciaddr, unassigned, us, request.giaddr, mac);
    message.set_opcode(Opcode::BootReply).set_flags(Flags::new(request.flags));
    // shim reads only the header, EDK2 prefers option 67.
    if choice.file.len() <= LOADER_FILE_LEN_MAX {
        message.set_fname(choice.file.as_bytes());
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(us));
    options.insert(DhcpOption::ClassIdentifier(choice.family.class().into()));
    options.insert(DhcpOption::BootfileName(choice.file.clone().into_bytes()));
    if let Boot::Loader { mode: Some(mode), .. } = &choice.boot
        && let Some(value) = mode.vendor_options()
    {
        options.insert(DhcpOption::VendorExtensions(value.to_vec()));
    }
    // RFC 6842 §3 for the client identifier; some ROMs accept no answer without their machine identifier.
    if let Some(id) = &request.client_id {
        options.insert(DhcpOption::ClientIdentifier(id.clone()));
    }
    if let Some(id) = &request.machine_id {
        options.insert(DhcpOption::ClientMachineIdentifier(id.clone()));
    }
    if choice.family == Family::Pxe {
        options.insert(DhcpOption::TFTPServerName(us.to_string().into_bytes()));
        if request.wants(OptionCode::TFTPServerAddress) {
            options.insert(DhcpOption::TFTPServerAddress(us));
        }
        message.set_sname(us.to_string().as_bytes());
    }
    let mut packet = message.to_vec().expect("what has a fixed place in the header fits there");
    if let Some(relay_info) = &request.relay_info {
        append_relay_info(&mut packet, relay_info);
    }
    // RFC 1542 §2.1: relays may drop what is shorter.
    packet.resize(packet.len().max(MIN_PACKET_SIZE), 0);
    packet
}

/// Puts option 82 last (RFC 3046 §2.2), as it came: `dhcproto` would read it and write its own order.
fn append_relay_info(packet: &mut Vec<u8>, relay_info: &[u8]) {
    packet.pop_if(|last| *last == u8::from(OptionCode::End));
    for chunk in relay_info.chunks(usize::from(u8::MAX)) {
        packet.push(OptionCode::RelayAgentInformation.into());
        packet.push(u8::try_from(chunk.len()).unwrap_or(u8::MAX));
        packet.extend_from_slice(chunk);
    }
    packet.push(OptionCode::End.into());
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (identity, mode) = match self {
            Self::Script(sign) => {
                return f.write_str(match sign {
                    IpxeSign::Options => "iPXE (option 175)",
                    IpxeSign::UserClass => "iPXE (user class)",
                    IpxeSign::BareClass => "iPXE (bare class after a loader)",
                    IpxeSign::Loop => "loop guard: the same loader three times in two minutes",
                });
            }
            Self::Loader { identity, mode } => (identity, mode),
        };
        write!(f, "{}", identity.loader)?;
        f.write_str(match mode {
            None => " over HTTP",
            Some(OfferMode::Direct) => " over TFTP",
            Some(OfferMode::BootServer) => " over TFTP, by port 4011",
            Some(OfferMode::PiMenu) => " over TFTP, with the menu of a Raspberry Pi",
        })?;
        f.write_str(match identity.correction {
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
