//! Whether the agent's ports are free, and who has them if not. Pure: the text of `/proc/net/{udp,tcp}` comes in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::finding::Finding;

/// The state LISTEN of a TCP socket (`include/net/tcp_states.h`).
const TCP_LISTEN: &str = "0A";

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
}

impl Transport {
    /// Its name after a port.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A socket that is bound, for TCP one that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Where.
    pub address: SocketAddr,
    /// By which processes hold it.
    pub inode: u64,
}

/// The sockets in the text of a file of `/proc/net`; lines that are not understood are left out.
pub fn parse(text: &str, transport: Transport) -> Vec<Bound> {
    text.lines().skip(1).filter_map(|line| parse_line(line, transport)).collect()
}

fn parse_line(line: &str, transport: Transport) -> Option<Bound> {
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
    let fields: Vec<&str> = line.split_whitespace().collect();
    let state = *fields.get(3)?;
    if transport == Transport::Tcp && state != TCP_LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = fields.get(9)?.parse().ok()?;
    Some(Bound { address: SocketAddr::new(parse_address(address)?, port), inode })
}

/// Words of 32 bits in the byte order of the host.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// A port that the agent needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub address: SocketAddr,
    /// By which protocol.
    pub transport: Transport,
}

impl Wanted {
    /// How the check is called.
    pub fn name(&self) -> String {
        format!("port {}/{}", self.address.port(), self.transport.as_str())
    }

    /// Whether a socket that is bound there leaves no room for the agent's.
    pub fn collides(&self, bound: &Bound) -> bool {
        let (ours, theirs) = (self.address.ip(), bound.address.ip());
        let overlap = ours.is_unspecified() || theirs.is_unspecified() || ours == theirs;
        overlap && self.address.port() == bound.address.port()
    }
}

/// A process that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name (`/proc/<pid>/comm`).
    pub name: String,
}

/// What binding the port came to, and who has it.
pub fn judge(wanted: &Wanted, bound: Result<(), io::ErrorKind>, holders: &[Holder]) -> Finding {
    let name = wanted.name();
    let address = wanted.address;
    let kind = match bound {
        Ok(()) => return Finding::ok(name, format!("free on {}", address.ip())),
        Err(kind) => kind,
    };
    match (kind, holders) {
        (io::ErrorKind::PermissionDenied, _) => {
            Finding::fail(name, format!("this user may not bind {address}")).cure(
                "give the agent CAP_NET_BIND_SERVICE, start it as root, or run the doctor as it is started",
            )
        }
        (io::ErrorKind::AddrInUse, []) => {
            Finding::fail(name, format!("{address} is taken by a program that this user may not see"))
                .cure("run the doctor as root to learn which")
        }
        (io::ErrorKind::AddrInUse, holders) => {
            let names: Vec<_> = holders
                .iter()
                .map(|holder| format!("{} (process {})", holder.name, holder.pid))
                .collect();
            let section = match wanted.transport {
                Transport::Udp => "[tftp]",
                Transport::Tcp => "[boot]",
            };
            Finding::fail(name, format!("{address} is taken by {}", names.join(", ")))
                .cure(format!("stop it, or give {section} listen another port"))
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            Finding::fail(name, format!("no interface has the address {}", address.ip()))
                .cure("correct listen in agent.toml")
        }
        (kind, _) => Finding::fail(name, format!("cannot bind {address}: {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  119: 00000000:0045 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31415 2 0000000000000000 0
  120: 0100007F:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 27182 2 0000000000000000 0
 nonsense
  121: 0100007F:xxxx
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 16180 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:1F91 00000000000000000000000001000000:D431 01 00000000:00000000 00:00000000 00000000  1000        0 16181 1 0 100 0 0 10 0
";

    fn wanted(address: &str, transport: Transport) -> Wanted {
        Wanted { address: address.parse().expect("an address"), transport }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn bound_sockets_are_read_and_connections_are_not() {
        let bound = |address: &str, inode| Bound { address: address.parse().unwrap(), inode };
        assert_eq!(
            parse(UDP, Transport::Udp),
            [bound("0.0.0.0:69", 31_415), bound("127.0.0.1:67", 27_182)]
        );
        assert_eq!(parse(TCP6, Transport::Tcp), [bound("[::]:8080", 16_180)]);
        assert_eq!(parse("", Transport::Udp), []);
    }

    #[test]
    fn a_port_collides_where_the_addresses_overlap() {
        for (ours, theirs, collides) in [
            ("0.0.0.0:69", "0.0.0.0:69", true),
            ("0.0.0.0:69", "10.0.0.1:69", true),
            ("10.0.0.1:69", "0.0.0.0:69", true),
            ("10.0.0.1:69", "[::]:69", true),
            ("10.0.0.1:69", "10.0.0.2:69", false),
            ("0.0.0.0:69", "0.0.0.0:70", false),
        ] {
            let bound = Bound { address: theirs.parse().expect("an address"), inode: 1 };
            let wanted = wanted(ours, Transport::Udp);
            assert_eq!(wanted.collides(&bound), collides, "{ours} {theirs}");
        }
    }

    #[test]
    fn a_taken_port_names_its_holder_and_the_cure() {
        let wanted = wanted("0.0.0.0:69", Transport::Udp);
        let holder = Holder { pid: 812, name: "dnsmasq".to_owned() };
        for (bound, holders, line) in [
            (Ok(()), vec![], "ok    port 69/udp  — free on 0.0.0.0"),
            (
                Err(io::ErrorKind::AddrInUse),
                vec![holder],
                "FAIL  port 69/udp  — 0.0.0.0:69 is taken by dnsmasq (process 812); stop it, or give [tftp] listen another port",
            ),
            (
                Err(io::ErrorKind::AddrInUse),
                vec![],
                "FAIL  port 69/udp  — 0.0.0.0:69 is taken by a program that this user may not see; run the doctor as root to learn which",
            ),
            (
                Err(io::ErrorKind::PermissionDenied),
                vec![],
                "FAIL  port 69/udp  — this user may not bind 0.0.0.0:69; give the agent CAP_NET_BIND_SERVICE, start it as root, or run the doctor as it is started",
            ),
            (
                Err(io::ErrorKind::AddrNotAvailable),
                vec![],
                "FAIL  port 69/udp  — no interface has the address 0.0.0.0; correct listen in agent.toml",
            ),
        ] {
            assert_eq!(judge(&wanted, bound, &holders).to_string(), line);
        }
    }
}
