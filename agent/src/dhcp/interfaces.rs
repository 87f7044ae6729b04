//! The interfaces that the settings name, and those that there are.

use nix::net::if_::{if_nameindex, if_nametoindex};

/// Those of `named` that this host does not have, as a sentence with the names that it has; none if all are there. Asks the
/// system, which does not wait for anything.
pub fn missing(named: &[String]) -> Option<String> {
    let is_missing = |name: &&String| if_nametoindex(name.as_str()).is_err();
    let missing: Vec<_> = named.iter().filter(is_missing).map(|name| format!("'{name}'")).collect();
    (!missing.is_empty()).then(|| complaint(&missing.join(" or "), &existing()))
}

/// All but the loopback, in the system's order.
fn existing() -> Vec<String> {
    let Ok(interfaces) = if_nameindex() else { return Vec::new() };
    let names = interfaces.iter().map(|it| it.name().to_string_lossy().into_owned());
    names.filter(|name| name != "lo").collect()
}

fn complaint(missing: &str, existing: &[String]) -> String {
    let existing = match existing {
        [] => "none but the loopback".to_owned(),
        names => names.join(", "),
    };
    format!(
        "there is no interface {missing}: correct interfaces in [dhcp], this host has {existing}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_named_with_those_that_there_are() {
        assert_eq!(missing(&["lo".to_owned()]), None);
        let text = missing(&["pureboot-none".to_owned(), "lo".to_owned()]).expect("one is missing");
        assert!(text.starts_with("there is no interface 'pureboot-none': "), "{text}");
        assert_eq!(
            complaint("'eth7' or 'br1'", &["eth0".to_owned(), "br0".to_owned()]),
            "there is no interface 'eth7' or 'br1': correct interfaces in [dhcp], this host has eth0, br0"
        );
        assert!(complaint("'eth7'", &[]).ends_with("this host has none but the loopback"));
    }
}
