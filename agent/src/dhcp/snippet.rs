//! Settings with which a site's DHCP server names the loader itself, for networks where the agent cannot speak DHCP: above all
//! where that server runs on the same host and has port 67. Pure text, from the same tables as the answers.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::arch::{Action, Family, RASPBERRY_PI_OUIS, REGISTRY};
use super::loaders::{LoaderKind, Loaders};
use super::quirks::PI_MENU;

/// A DHCP server that we can write settings for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpServer {
    /// dnsmasq.
    Dnsmasq,
    /// odhcpd of OpenWrt.
    Odhcpd,
    /// dhcpd of the Internet Systems Consortium.
    Isc,
    /// Kea, its successor.
    Kea,
}

/// A name of no server that we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is none of dnsmasq, odhcpd, isc, kea")]
pub struct UnknownServer(String);

impl FromStr for DhcpServer {
    type Err = UnknownServer;

    fn from_str(text: &str) -> Result<Self, UnknownServer> {
        match text {
            "dnsmasq" => Ok(Self::Dnsmasq),
            "odhcpd" => Ok(Self::Odhcpd),
            "isc" => Ok(Self::Isc),
            "kea" => Ok(Self::Kea),
            _ => Err(UnknownServer(text.chars().take(64).collect())),
        }
    }
}

/// What the settings say about the agent.
#[derive(Debug, Clone, Copy)]
pub struct Agent<'a> {
    /// Its address as the machines see it.
    pub address: Ipv4Addr,
    /// Its HTTP port.
    pub http_port: u16,
    /// Its loaders.
    pub loaders: &'a Loaders,
}

/// The machines that load the same thing in the same way.
struct Group {
    /// `pureboot-x64` or `pureboot-x64-http`.
    name: String,
    family: Family,
    loader: LoaderKind,
    codes: Vec<u16>,
    /// A file name for TFTP, a URL for HTTP.
    file: String,
}

impl Agent<'_> {
    fn url(&self, path: &str) -> String {
        format!("http://{}:{}/{path}", self.address, self.http_port)
    }

    fn script(&self) -> String {
        self.url("boot.ipxe")
    }

    /// The served rows of the registry, in its order.
    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for row in &REGISTRY {
            let (loader, family) = match row.action {
                Action::Tftp(loader) => (loader, Family::Pxe),
                Action::Http(loader) => (loader, Family::Http),
                Action::Refuse => continue,
            };
            let Some(file) = self.loaders.get(loader) else { continue };
            let known = |group: &&mut Group| group.loader == loader && group.family == family;
            if let Some(group) = groups.iter_mut().find(known) {
                group.codes.push(row.code);
                continue;
            }
            let word = loader.as_str().replace('_', "-");
            let (name, file) = match family {
                Family::Pxe => (format!("pureboot-{word}"), file.to_string()),
                Family::Http => {
                    (format!("pureboot-{word}-http"), self.url(&format!("files/{}", file.key())))
                }
            };
            groups.push(Group { name, family, loader, codes: vec![row.code], file });
        }
        groups
    }
}

/// The settings for a server.
pub fn render(server: DhcpServer, agent: &Agent<'_>) -> String {
    let mut text = String::new();
    let result = match server {
        DhcpServer::Dnsmasq => render_dnsmasq(&mut text, agent),
        DhcpServer::Odhcpd => render_odhcpd(&mut text, agent),
        DhcpServer::Isc => render_isc(&mut text, agent),
        DhcpServer::Kea => render_kea(&mut text, agent),
    };
    result.expect("a string takes all text");
    text
}

fn render_dnsmasq(text: &mut String, agent: &Agent<'_>) -> std::fmt::Result {
    let address = agent.address;
    writeln!(
        text,
        "# PureBoot: dnsmasq names the loader, the agent at {address} serves it. IPv4 only."
    )?;
    writeln!(text, "# For a file of its own, such as /etc/dnsmasq.d/pureboot.conf.\n")?;
    writeln!(
        text,
        "# iPXE loads its script; option 176 saves it the wait for a ProxyDHCP server."
    )?;
    writeln!(text, "dhcp-match=set:pureboot-ipxe,175")?;
    writeln!(text, "dhcp-userclass=set:pureboot-ipxe,iPXE")?;
    writeln!(text, "dhcp-boot=tag:pureboot-ipxe,{},,{address}", agent.script())?;
    writeln!(text, "dhcp-option-force=tag:pureboot-ipxe,encap:175,176,1b\n")?;
    writeln!(text, "# A Raspberry Pi says that it is a PC and looks for its name in option 43.")?;
    for [a, b, c] in RASPBERRY_PI_OUIS {
        writeln!(text, "dhcp-mac=set:pureboot-pi,{a:02x}:{b:02x}:{c:02x}:*:*:*")?;
    }
    if let Some(file) = agent.loaders.get(LoaderKind::RaspberryPi) {
        writeln!(text, "dhcp-match=set:pureboot-pc,option:client-arch,0")?;
        writeln!(
            text,
            "dhcp-option-force=tag:pureboot-pi,tag:pureboot-pc,43,{}",
            hex(PI_MENU, ":")
        )?;
        writeln!(
            text,
            "dhcp-boot=tag:!pureboot-ipxe,tag:pureboot-pi,tag:pureboot-pc,{file},,{address}"
        )?;
    }
    writeln!(text, "\n# Firmware, by its architecture; what is not named here boots its disk.")?;
    for Group { name, family, loader, codes, file } in agent.groups() {
        for code in codes {
            writeln!(text, "dhcp-match=set:{name},option:client-arch,{code}")?;
        }
        let but_pi = if loader == LoaderKind::Bios { "tag:!pureboot-pi," } else { "" };
        writeln!(text, "dhcp-boot=tag:!pureboot-ipxe,{but_pi}tag:{name},{file},,{address}")?;
        if family == Family::Http {
            writeln!(text, "dhcp-option-force=tag:{name},60,HTTPClient")?;
        }
        if loader == LoaderKind::RaspberryPi {
            writeln!(text, "dhcp-option-force=tag:{name},43,{}", hex(PI_MENU, ":"))?;
        }
    }
    Ok(())
}

fn render_odhcpd(text: &mut String, agent: &Agent<'_>) -> std::fmt::Result {
    let address = agent.address;
    writeln!(
        text,
        "# PureBoot on OpenWrt with odhcpd: odhcpd cannot name a loader over IPv4 (its boot6 is for IPv6)."
    )?;
    writeln!(
        text,
        "# Either run the agent on another host of the network with [dhcp] enabled, and change nothing here,"
    )?;
    writeln!(
        text,
        "# or let dnsmasq lease the IPv4 addresses and name the loader; as root on the router:"
    )?;
    writeln!(text, "uci set dhcp.odhcpd.maindhcp='0'")?;
    writeln!(text, "uci set dhcp.@dnsmasq[0].confdir='/etc/dnsmasq.d'")?;
    writeln!(text, "uci commit dhcp")?;
    writeln!(text, "mkdir -p /etc/dnsmasq.d")?;
    writeln!(text, "cat > /etc/dnsmasq.d/pureboot.conf <<'EOF'")?;
    render_dnsmasq(text, agent)?;
    writeln!(text, "EOF")?;
    writeln!(text, "/etc/init.d/odhcpd restart")?;
    writeln!(text, "/etc/init.d/dnsmasq restart")?;
    writeln!(text, "# The agent's address {address} must stay the same.")
}

fn render_isc(text: &mut String, agent: &Agent<'_>) -> std::fmt::Result {
    let address = agent.address;
    writeln!(
        text,
        "# PureBoot: dhcpd names the loader, the agent at {address} serves it. IPv4 only."
    )?;
    writeln!(text, "# For the global part of dhcpd.conf; it needs no ProxyDHCP.\n")?;
    writeln!(text, "option space ipxe;")?;
    writeln!(text, "option ipxe-encap-opts code 175 = encapsulate ipxe;")?;
    writeln!(text, "option ipxe.http code 19 = unsigned integer 8;")?;
    writeln!(text, "option ipxe.no-pxedhcp code 176 = unsigned integer 8;")?;
    writeln!(text, "option pureboot-arch code 93 = unsigned integer 16;\n")?;
    writeln!(text, "next-server {address};")?;
    writeln!(text, "if exists ipxe.http or option user-class = \"iPXE\" {{")?;
    writeln!(text, "  option ipxe.no-pxedhcp 1;")?;
    writeln!(text, "  filename \"{}\";", agent.script())?;
    if let Some(file) = agent.loaders.get(LoaderKind::RaspberryPi) {
        let is_pi =
            |[a, b, c]: [u8; 3]| format!("substring(hardware, 1, 3) = {a:02x}:{b:02x}:{c:02x}");
        let pis = RASPBERRY_PI_OUIS.map(is_pi).join("\n      or ");
        writeln!(text, "}} elsif option pureboot-arch = 00:00 and (\n      {pis}) {{")?;
        writeln!(text, "  option vendor-encapsulated-options {};", hex(PI_MENU, ":"))?;
        writeln!(text, "  filename \"{file}\";")?;
    }
    for Group { family, loader, codes, file, .. } in agent.groups() {
        let is_code = |code: &u16| {
            let [high, low] = code.to_be_bytes();
            format!("option pureboot-arch = {high:02x}:{low:02x}")
        };
        let codes: Vec<_> = codes.iter().map(is_code).collect();
        writeln!(text, "}} elsif {} {{", codes.join(" or "))?;
        if family == Family::Http {
            writeln!(text, "  option vendor-class-identifier \"HTTPClient\";")?;
        }
        if loader == LoaderKind::RaspberryPi {
            writeln!(text, "  option vendor-encapsulated-options {};", hex(PI_MENU, ":"))?;
        }
        writeln!(text, "  filename \"{file}\";")?;
    }
    writeln!(text, "}}")
}

fn render_kea(text: &mut String, agent: &Agent<'_>) -> std::fmt::Result {
    let address = agent.address;
    writeln!(
        text,
        "// PureBoot: Kea names the loader, the agent at {address} serves it. IPv4 only."
    )?;
    writeln!(text, "// For the object \"Dhcp4\" of kea-dhcp4.conf.")?;
    let is_ipxe =
        "option[175].exists or option[77].hex == 'iPXE' or option[77].hex == 0x0469505845";
    let mut classes = vec![kea_class("pureboot-ipxe", is_ipxe, address, &agent.script(), "")];
    let pi_options = format!(
        ",\n    {},\n    {}",
        r#""option-def": [ { "name": "vendor-encapsulated-options", "code": 43, "type": "binary" } ]"#,
        kea_option("vendor-encapsulated-options", PI_MENU)
    );
    let pi_file = agent.loaders.get(LoaderKind::RaspberryPi);
    if let Some(file) = pi_file {
        let is_pi =
            |[a, b, c]: [u8; 3]| format!("substring(pkt4.mac, 0, 3) == 0x{a:02x}{b:02x}{c:02x}");
        let pis = RASPBERRY_PI_OUIS.map(is_pi).join(" or ");
        let test = format!("not member('pureboot-ipxe') and option[93].hex == 0x0000 and ({pis})");
        classes.push(kea_class("pureboot-pi", &test, address, file.as_str(), &pi_options));
    }
    for Group { name, family, loader, codes, file } in agent.groups() {
        let is_code = |code: &u16| format!("option[93].hex == 0x{code:04x}");
        let codes = codes.iter().map(is_code).collect::<Vec<_>>().join(" or ");
        let but_pi = match (loader, pi_file) {
            (LoaderKind::Bios, Some(_)) => "not member('pureboot-pi') and ",
            _ => "",
        };
        let test = format!("not member('pureboot-ipxe') and {but_pi}({codes})");
        let options = match (loader, family) {
            (LoaderKind::RaspberryPi, _) => pi_options.clone(),
            (_, Family::Http) => {
                format!(
                    ",\n    {}",
                    kea_option("vendor-class-identifier", family.class().as_bytes())
                )
            }
            (_, Family::Pxe) => String::new(),
        };
        classes.push(kea_class(&name, &test, address, &file, &options));
    }
    writeln!(text, "\"client-classes\": [\n{}\n]", classes.join(",\n"))
}

/// A client class; `options` continues the object.
fn kea_class(name: &str, test: &str, address: Ipv4Addr, file: &str, options: &str) -> String {
    format!(
        r#"  {{ "name": "{name}",
    "test": "{test}",
    "next-server": "{address}", "boot-file-name": "{file}"{options} }}"#
    )
}

/// An option that is sent whether or not the machine asks for it, its value in hexadecimal.
fn kea_option(name: &str, value: &[u8]) -> String {
    let data = hex(value, "");
    format!(
        r#""option-data": [ {{ "name": "{name}", "always-send": true, "csv-format": false, "data": "{data}" }} ]"#
    )
}

fn hex(bytes: &[u8], separator: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests;
