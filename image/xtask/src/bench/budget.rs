//! Figures that have a limit, and where they are over it.

/// What was measured beside what it may be.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    missed: Vec<String>,
}

impl Budgets {
    /// Prints a figure and keeps it if it is over its limit.
    pub(super) fn hold(&mut self, what: &str, got: f64, unit: &str, max: f64) {
        let is_met = got <= max;
        let text = format!("{what}: {got:.1} {unit} (wanted <= {max})");
        println!("  {} {text}", if is_met { "met:    " } else { "NOT met:" });
        self.missed.extend((!is_met).then_some(text));
    }

    /// Says which were over their limit.
    pub(super) fn end(self) {
        match self.missed.as_slice() {
            [] => println!("\nall wanted figures are met"),
            missed => println!("\nNOT met:\n  {}", missed.join("\n  ")),
        }
    }
}
