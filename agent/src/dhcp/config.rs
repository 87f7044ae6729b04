//! The `[dhcp]` section of `agent.toml`.

use serde::{Deserialize, Serialize};

use super::loaders::Loaders;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::loaders::LoaderKind;

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
    fn a_misspelt_setting_is_refused() {
        for text in ["enable = true", "[loaders]\nx86 = \"a.efi\"", "[loaders]\nx64 = \"../a\""] {
            assert!(toml::from_str::<DhcpConfig>(text).is_err(), "{text}");
        }
    }
}
