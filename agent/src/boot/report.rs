//! What a machine reports about itself, as its installer or its operating system sends it.

use pureboot_protocol::{BootId, FieldError, Mac, NodeEvent};
use serde::Deserialize;

/// `POST /api/v1/report`: an event, whose it is, and the boot session that proves it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Report {
    /// The machine.
    pub mac_address: Mac,
    /// The boot session that its script named, as `pureboot.boot` on the kernel's command line.
    pub boot: BootId,
    /// What happened.
    #[serde(flatten)]
    pub event: NodeEvent,
}

/// `POST /api/v1/nodes/{id}/event`: the same about a node that the path names.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct NodeReport {
    /// The boot session.
    pub boot: BootId,
    /// What happened.
    #[serde(flatten)]
    pub event: NodeEvent,
}

/// What is wrong with an event, field by field.
pub fn check(event: &NodeEvent) -> Vec<FieldError> {
    match event.progress {
        Some(progress) if progress > 100 => vec![FieldError {
            field: "progress".to_owned(),
            message: format!("{progress} is more than 100 per cent"),
        }],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::NodeEventKind;

    use super::*;

    #[test]
    fn a_report_names_the_machine_the_session_and_the_event() {
        let report: Report = serde_json::from_str(
            r#"{"mac_address": "52-54-00-12-34-56", "boot": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77",
                "event_type": "install_progress", "progress": 40, "message": "half\nway", "event_data": {"any": 1}}"#,
        )
        .expect("a report");
        assert_eq!(report.mac_address.to_string(), "52:54:00:12:34:56");
        assert_eq!(report.event.event_type, NodeEventKind::InstallProgress);
        assert_eq!(report.event.message.as_ref().map(|message| message.as_str()), Some("half_way"));
        assert_eq!(check(&report.event), Vec::new());
    }

    #[test]
    fn h19_a_report_without_session_is_none() {
        let text = r#"{"mac_address": "52:54:00:12:34:56", "event_type": "install_complete"}"#;
        let error = serde_json::from_str::<Report>(text).expect_err("no session").to_string();
        assert!(error.contains("boot"), "{error}");
    }

    #[test]
    fn progress_ends_at_a_hundred() {
        let event =
            NodeEvent { progress: Some(101), ..NodeEvent::new(NodeEventKind::InstallProgress) };
        assert_eq!(check(&event).len(), 1);
    }
}
