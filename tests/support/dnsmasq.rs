//! The DHCP server that a site has already: a real dnsmasq.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;

use crate::process::{self, Program};

/// What the server says about booting.
#[derive(Debug, Clone, Copy)]
pub enum Says<'a> {
    /// Nothing: it leases addresses.
    Nothing,
    /// Nothing, and it is the router of an IPv6 network: iPXE asks for one on each network, and waits 16 s where there is none.
    NothingWithIpv6,
    /// What `pureboot-agent dhcp-snippet` printed, from this file.
    Snippet(&'a Path),
    /// The agent's files in the few words of the README; what iPXE is told to load comes with it.
    TheAgent(Ipv4Addr, &'a str),
    /// A file and a server of its own, to everybody: what stays behind when a boot server moves.
    Rogue(&'a str, Ipv4Addr),
}

/// Starts dnsmasq on one interface of the network 10.73.0.0/24. It has the addresses from .50 to .99.
///
/// # Errors
/// It is not installed or cannot be started.
pub fn start(interface: &str, says: Says<'_>, dir: &Path) -> Result<Program> {
    let mut command = process::system("dnsmasq")?;
    let mut argument = |text: &str| _ = command.arg(text);
    for text in ["--keep-in-foreground", "--port=0", "--user=root", "--bind-interfaces"] {
        argument(text);
    }
    argument(&format!("--interface={interface}"));
    for text in ["--log-dhcp", "--log-facility=-", "--pid-file=", "--no-ping"] {
        argument(text);
    }
    argument("--dhcp-authoritative");
    argument("--dhcp-range=10.73.0.50,10.73.0.99,1h");
    let leases = format!("leases.{:08x}", crate::random() >> 32);
    argument(&format!("--dhcp-leasefile={}", dir.join(leases).display()));
    match says {
        Says::Snippet(path) => argument(&format!("--conf-file={}", path.display())),
        _ => argument("--conf-file=/dev/null"),
    }
    match says {
        Says::Nothing | Says::Snippet(_) => {}
        Says::NothingWithIpv6 => {
            let mut address = process::system("ip")?;
            address.args(["-6", "address", "add", "fd73::2/64", "dev", interface, "nodad"]);
            process::succeed(address)?;
            for text in ["--enable-ra", "--dhcp-range=fd73::,ra-only", "--ra-param=*,4,60"] {
                argument(text);
            }
        }
        Says::TheAgent(agent, for_ipxe) => {
            argument("--dhcp-match=set:ipxe,175");
            argument("--dhcp-match=set:efi,option:client-arch,7");
            argument(&format!("--dhcp-boot=tag:ipxe,{for_ipxe},,{agent}"));
            argument(&format!("--dhcp-boot=tag:!ipxe,tag:efi,ipxe.efi,,{agent}"));
            argument(&format!("--dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe,,{agent}"));
        }
        Says::Rogue(file, server) => argument(&format!("--dhcp-boot={file},,{server}")),
    }
    Program::spawn("dnsmasq", command, dir)
}
