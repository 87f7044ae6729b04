//! What the doctor says: one line a check.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::session::render::printable;

/// How bad it is; the exit code is that of the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Could not be checked.
    Skipped,
    /// Works, or may work; a person should look.
    Warn,
    /// Does not work.
    Fail,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skip",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub name: String,
    /// What was found.
    pub what: String,
    /// Why it is so, where that is known.
    pub cause: Option<String>,
    /// What to do about it.
    pub cure: Option<String>,
}

impl Finding {
    fn new(severity: Severity, name: impl Into<String>, what: impl Into<String>) -> Self {
        Self { severity, name: name.into(), what: what.into(), cause: None, cure: None }
    }

    /// All is well.
    pub fn ok(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Ok, name, what)
    }

    /// Not checked, for the reason `what`.
    pub fn skipped(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Skipped, name, what)
    }

    /// A person should look.
    pub fn warn(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Warn, name, what)
    }

    /// It does not work.
    pub fn fail(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Fail, name, what)
    }

    /// Why it is so.
    #[must_use]
    pub fn because(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// What to do about it.
    #[must_use]
    pub fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }

    /// What, why and what to do, as one line.
    pub fn explanation(&self) -> String {
        let mut text = self.what.clone();
        if let Some(cause) = &self.cause {
            _ = write!(text, ": {cause}");
        }
        if let Some(cure) = &self.cure {
            _ = write!(text, "; {cure}");
        }
        text
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {}  — {}", self.severity.word(), self.name, self.explanation())
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Whether nothing is worse than a warning.
    pub is_healthy: bool,
    /// One for each check.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// The verdict over all findings.
    pub fn new(findings: Vec<Finding>) -> Self {
        let is_healthy = findings.iter().all(|finding| finding.severity < Severity::Fail);
        Self { is_healthy, findings }
    }

    /// For a person: a line for each finding. What came from the network is made harmless for a terminal.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            _ = writeln!(text, "{}", printable(&finding.to_string()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_finding_its_cause_and_the_cure() {
        let diagnosis = Diagnosis::new(vec![
            Finding::ok("disk", "12 % used"),
            Finding::fail("port 69/udp", "taken\u{1b}[2J\n").because("dnsmasq").cure("stop it"),
        ]);
        assert_eq!(
            diagnosis.render(),
            "ok    disk  — 12 % used\nFAIL  port 69/udp  — taken?[2J?: dnsmasq; stop it\n"
        );
        assert!(!diagnosis.is_healthy);
        assert!(
            Diagnosis::new(vec![Finding::warn("a", "b"), Finding::skipped("c", "d")]).is_healthy
        );
    }
}
