//! How the site's policies fare, in words.

use pureboot_protocol::{PolicyReport, PolicyState};

/// What a person should look at; none where all is well.
pub fn complaint(policy: &PolicyReport) -> Option<String> {
    let PolicyReport { plugin, assigned, .. } = policy;
    let why = policy.failure.as_deref().unwrap_or("the log tells more");
    match policy.state {
        PolicyState::Running | PolicyState::Awaited => None,
        PolicyState::SetAside => {
            let seconds = policy.set_aside_seconds.unwrap_or_default();
            Some(format!("policy {plugin} is set aside for {seconds} s: {why}"))
        }
        PolicyState::RolledBack => {
            let running = policy.running.map_or("none".to_owned(), |version| version.to_string());
            Some(format!("policy {plugin} {assigned} failed, and {running} runs instead"))
        }
        PolicyState::Refused => Some(format!("policy {plugin} {assigned} is refused: {why}")),
    }
}

/// What can be done about a complaint.
pub fn cure(policy: &PolicyReport) -> String {
    let plugin = &policy.plugin;
    match policy.state {
        PolicyState::Running | PolicyState::Awaited => "wait".to_owned(),
        PolicyState::SetAside => format!(
            "mend the policy and assign its next version; `pureboot-agent plugin reset {plugin}` has it asked again now. Machines boot by the built-in rules meanwhile, or as its failure policy says"
        ),
        PolicyState::RolledBack => format!(
            "mend the policy and assign its next version, or try it once more with `pureboot-agent plugin reset {plugin}`"
        ),
        PolicyState::Refused => {
            "have the controller pack and sign it for this agent's engine".to_owned()
        }
    }
}

/// One line of `status`.
pub(super) fn describe(policy: &PolicyReport) -> String {
    let PolicyReport { plugin, assigned, mode, answers, failures, .. } = policy;
    let state = match policy.state {
        PolicyState::Running => String::new(),
        state => format!(", {}", state.as_str().replace('_', " ").to_uppercase()),
    };
    format!("{plugin} {assigned}, {mode}, {answers} answers, {failures} failures{state}")
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::PluginMode;

    use super::*;

    #[test]
    fn p14_a_policy_that_is_set_aside_is_complained_of_with_its_failure_and_the_cure() {
        let policy = PolicyReport {
            plugin: "rack-window".parse().expect("a name"),
            assigned: "1.2.3".parse().expect("a version"),
            running: None,
            state: PolicyState::SetAside,
            mode: PluginMode::On,
            answers: 12,
            errors: 0,
            failures: 3,
            skipped: 4,
            fuel_p99: 0,
            fuel_total: 0,
            took_max_us: 0,
            took_total_us: 0,
            set_aside_seconds: Some(42),
            failure: Some("it used up its stack".to_owned()),
        };
        assert_eq!(
            complaint(&policy).as_deref(),
            Some("policy rack-window is set aside for 42 s: it used up its stack")
        );
        assert!(cure(&policy).contains("pureboot-agent plugin reset rack-window"));
        assert_eq!(describe(&policy), "rack-window 1.2.3, on, 12 answers, 3 failures, SET ASIDE");
        let well = PolicyReport { state: PolicyState::Running, ..policy };
        assert_eq!(complaint(&well), None);
    }
}
