//! The `[dhcp]` section of `agent.toml`.

use serde::{Deserialize, Serialize};

use super::loaders::{LoaderFile, Loaders};
use super::quirks::operator::OperatorQuirk;

/// Whether and where the agent answers DHCP requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DhcpConfig {
    /// Off by default: a second voice on a network is for its operator to allow.
    pub enabled: bool,
    /// The names of the interfaces to answer on; there is no "all", because an answer on the wrong network is an attack.
    pub interfaces: Vec<String>,
    /// Which file a machine loads first.
    pub loaders: Loaders,
    /// What the operator knows about machines, as tables `[[dhcp.quirk]]`.
    #[serde(rename = "quirk", skip_serializing_if = "Vec::is_empty")]
    pub quirks: Vec<OperatorQuirk>,
}

impl DhcpConfig {
    /// Every file that a machine may be sent for, by its architecture or by an entry of the operator's.
    pub fn files(&self) -> impl Iterator<Item = &LoaderFile> {
        let named = self.quirks.iter().filter_map(|quirk| quirk.file.as_ref());
        self.loaders.files().chain(named)
    }

    /// What cannot work and is allowed all the same, as a person reads it; none if there is nothing, or nobody is answered.
    pub fn complaint(&self) -> Option<String> {
        let file = self.files().find(|file| self.enabled && file.leads_to_grub())?;
        Some(format!(
            "[dhcp] offers '{file}', and GRUB asks TFTP at the server that leases addresses, which ProxyDHCP is not: chain iPXE \
             (ipxe-shimx64.efi with ipxe.efi), or leave [dhcp] off and let that server name the agent"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::loaders::{LoaderKind, Stock};

    #[test]
    fn an_empty_section_answers_nobody() {
        assert_eq!(toml::from_str::<DhcpConfig>("").unwrap(), DhcpConfig::default());
        assert!(!DhcpConfig::default().enabled);
    }

    #[test]
    fn a_section_says_where_and_what() {
        let text = "enabled = true\ninterfaces = [\"br0\"]\n[loaders]\nx64 = \"sb/shimx64.efi\"\n\
                    [[quirk]]\noui = [\"9c:b6:54\"]\nmode = \"boot_server\"\n";
        let config: DhcpConfig = toml::from_str(text).unwrap();
        assert!(config.enabled);
        assert_eq!(config.interfaces, ["br0"]);
        let file = config.loaders.get(LoaderKind::X64).map(ToString::to_string);
        assert_eq!(file.as_deref(), Some("sb/shimx64.efi"));
        assert_eq!(config.quirks.len(), 1);
        let again: DhcpConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn grub_behind_proxydhcp_is_complained_of() {
        for (lines, is_grub) in [
            ("[loaders]\nx64 = \"sb/shimx64.efi\"", true),
            ("[loaders]\nx64 = \"grubx64.efi\"", true),
            ("[[quirk]]\narch = [7]\nfile = \"a/grubnetx64.efi\"", true),
            ("[loaders]\nx64 = \"sb/ipxe-shimx64.efi\"", false),
            ("", false),
        ] {
            let config = |enabled| {
                let text = format!("enabled = {enabled}\n{lines}");
                toml::from_str::<DhcpConfig>(&text).expect(lines)
            };
            assert_eq!(config(true).complaint().is_some(), is_grub, "{lines}");
            assert_eq!(config(false).complaint(), None, "{lines}");
        }
    }

    #[test]
    fn the_files_of_entries_are_among_those_that_have_to_be_there() {
        let text = "[[quirk]]\narch = [7]\nfile = \"old/ipxe-shimx64.efi\"";
        let config: DhcpConfig = toml::from_str(text).unwrap();
        let stock = Stock::of(config.files(), |key| !key.path().starts_with("old/"));
        let missing: Vec<_> = stock.missing.iter().map(ToString::to_string).collect();
        assert_eq!(missing, ["bootloaders/old/ipxe-shimx64.efi", "bootloaders/old/ipxe.efi"]);
    }

    #[test]
    fn a_misspelt_setting_is_refused() {
        for text in ["enable = true", "[loaders]\nx86 = \"a.efi\"", "[loaders]\nx64 = \"../a\""] {
            assert!(toml::from_str::<DhcpConfig>(text).is_err(), "{text}");
        }
    }
}
