//! What a person reads of updates of the agent.

use pureboot_protocol::{UpdateEnded, UpdateFate, UpdateReport, UpdateState};

/// The line of `status`; none where there never was an update.
pub(super) fn describe(report: &UpdateReport) -> Option<String> {
    let candidate = report.candidate.map_or(String::new(), |version| version.to_string());
    let state = match report.state {
        UpdateState::Installed => None,
        UpdateState::Updated => Some("this version came by an update".to_owned()),
        UpdateState::Staged => Some(format!("version {candidate} waits for the next start")),
        UpdateState::OnTrial => Some("this version is ON TRIAL".to_owned()),
    };
    let previous = report.previous.map(|version| format!("{version} is kept to go back to"));
    let parts: Vec<_> = state.into_iter().chain(previous).chain(complaint(report)).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What went wrong with the last update.
pub(super) fn complaint(report: &UpdateReport) -> Option<String> {
    let UpdateEnded { version, fate, why, at } = report.last.as_ref()?;
    match fate {
        UpdateFate::Proven => None,
        UpdateFate::GoneBack => Some(format!("went back from version {version} at {at}: {why}")),
        UpdateFate::Refused => Some(format!("version {version} was not tried ({at}): {why}")),
    }
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{Target, Timestamp};

    use super::*;

    #[test]
    fn a_person_reads_which_version_runs_and_why_one_does_not() {
        let version = |text: &str| Some(text.parse().expect("a version"));
        let installed = UpdateReport {
            target: Target::X86_64,
            state: UpdateState::Installed,
            candidate: None,
            previous: None,
            last: None,
        };
        assert_eq!(describe(&installed), None);
        let trial = UpdateReport {
            state: UpdateState::OnTrial,
            candidate: version("1.1.0"),
            previous: version("1.0.0"),
            ..installed.clone()
        };
        let text = "this version is ON TRIAL; 1.0.0 is kept to go back to";
        assert_eq!(describe(&trial).as_deref(), Some(text));
        let last = UpdateEnded {
            version: "1.1.0".parse().expect("a version"),
            fate: UpdateFate::GoneBack,
            why: "it ended 3 times".to_owned(),
            at: Timestamp::from_unix_ms(0),
        };
        let back = UpdateReport { last: Some(last), ..installed };
        let text = "went back from version 1.1.0 at 1970-01-01T00:00:00.000Z: it ended 3 times";
        assert_eq!(describe(&back).as_deref(), Some(text));
    }
}
