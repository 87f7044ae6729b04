//! Figures of turns, and the row that they make.

use std::time::Duration;

use super::cases::{Case, Compared, Wanted};
use crate::bench::load::{Load, Outcome};
use crate::bench::median;
use crate::bench::peers::Server;

/// Two runs of the same server differ by more.
const NOISE: f64 = 0.005;

/// What one turn measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    mb_per_second: f64,
    cpu_seconds_per_gb: f64,
    first_byte_p50_ms: f64,
    first_byte_p99_ms: f64,
    complete_p99_ms: f64,
    failures: usize,
}

impl Figures {
    pub(super) fn new(load: &Load<'_>, outcome: &Outcome, cpu_seconds: f64) -> Self {
        let bytes = load.content.len() as f64 * outcome.complete.len() as f64;
        Self {
            mb_per_second: bytes / 1e6 / outcome.elapsed.as_secs_f64(),
            cpu_seconds_per_gb: cpu_seconds / (bytes / 1e9),
            first_byte_p50_ms: percentile_ms(&outcome.first_byte, 50),
            first_byte_p99_ms: percentile_ms(&outcome.first_byte, 99),
            complete_p99_ms: percentile_ms(&outcome.complete, 99),
            failures: outcome.failures.len(),
        }
    }

    /// What is compared; more is better.
    fn score(&self, compared: Compared) -> f64 {
        match compared {
            Compared::Speed => self.mb_per_second,
            Compared::Completion => 1.0 / self.complete_p99_ms,
        }
    }
}

/// A case and what came of it, the agent first.
pub(super) struct Row<'a> {
    case: &'a Case<'a>,
    servers: &'a [Server],
    turns: Vec<Vec<Figures>>,
}

impl<'a> Row<'a> {
    pub(super) fn new(case: &'a Case<'_>, servers: &'a [Server], turns: Vec<Vec<Figures>>) -> Self {
        Self { case, servers, turns }
    }

    fn ours(&self) -> &[Figures] {
        self.turns.first().map(Vec::as_slice).unwrap_or_default()
    }

    /// The median of the ratios of each round, ours to that of server `number`.
    fn ratio(&self, number: usize, figure: impl Fn(&Figures) -> f64) -> f64 {
        let theirs = self.turns.get(number).map(Vec::as_slice).unwrap_or_default();
        let rounds = self.ours().iter().zip(theirs);
        median(rounds.map(|(our, their)| figure(our) / figure(their)).collect())
    }

    /// The ratio to the peer that is best at it.
    fn best(&self, figure: impl Fn(&Figures) -> f64 + Copy, is_more_better: bool) -> f64 {
        let ratios = (1..self.servers.len()).map(|number| self.ratio(number, figure));
        let ratios = ratios.filter(|ratio| !ratio.is_nan());
        let pick = if is_more_better { f64::min } else { f64::max };
        ratios.reduce(pick).unwrap_or(f64::NAN)
    }

    fn median_of(turns: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
        median(turns.iter().map(figure).collect())
    }

    /// Each wanted figure in words, and whether it is met.
    fn verdicts(&self) -> Vec<(String, bool)> {
        let Wanted { ratio, compared, cpu_ratio_max, first_byte_max } = self.case.wanted;
        let what = match compared {
            Compared::Speed => "speed",
            Compared::Completion => "completion p99",
        };
        let mut verdicts = Vec::new();
        let got = self.best(|figures| figures.score(compared), true);
        verdicts.push((
            format!("{what} {got:.2}x of the best peer (wanted >= {ratio:.1})"),
            got >= ratio - NOISE,
        ));
        if let Some(max) = cpu_ratio_max {
            let got = self.best(|figures| figures.cpu_seconds_per_gb, false);
            let text = format!("CPU {got:.2}x of the best peer (wanted <= {max:.1})");
            verdicts.push((text, got <= max + NOISE));
        }
        if let Some(max) = first_byte_max {
            let got_ms = Self::median_of(self.ours(), |figures| figures.first_byte_p99_ms);
            let max_ms = max.as_secs_f64() * 1e3;
            let text = format!("first byte p99 {got_ms:.1} ms (wanted <= {max_ms:.0})");
            verdicts.push((text, got_ms <= max_ms));
        }
        let failures: usize = self.ours().iter().map(|figures| figures.failures).sum();
        verdicts.push((format!("{failures} failed transfers (wanted 0)"), failures == 0));
        verdicts
    }

    /// What is wanted and not met.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self.verdicts().into_iter().filter(|(_, is_met)| !is_met);
        missed.map(|(text, _)| format!("{}: {text}", self.case.title)).collect()
    }

    pub(super) fn print(&self) {
        println!("\n{}", self.case.title);
        println!(
            "  {:<12} {:>8} {:>7} {:>9} {:>9} {:>12} {:>12} {:>13} {:>7}",
            "server",
            "MB/s",
            "ours",
            "CPU s/GB",
            "ours",
            "1st byte p50",
            "1st byte p99",
            "complete p99",
            "failed"
        );
        for (number, (server, turns)) in self.servers.iter().zip(&self.turns).enumerate() {
            if turns.is_empty() {
                println!("  {:<12} does not know windowsize", server.name);
                continue;
            }
            let of = |figure: fn(&Figures) -> f64| Self::median_of(turns, figure);
            println!(
                "  {:<12} {:>8.1} {:>6.2}x {:>9.2} {:>8.2}x {:>9.2} ms {:>9.2} ms {:>10.1} ms {:>7}",
                server.name,
                of(|figures| figures.mb_per_second),
                self.ratio(number, |figures| figures.mb_per_second),
                of(|figures| figures.cpu_seconds_per_gb),
                self.ratio(number, |figures| figures.cpu_seconds_per_gb),
                of(|figures| figures.first_byte_p50_ms),
                of(|figures| figures.first_byte_p99_ms),
                of(|figures| figures.complete_p99_ms),
                turns.iter().map(|figures| figures.failures).sum::<usize>(),
            );
        }
        for (text, is_met) in self.verdicts() {
            println!("  {} {text}", if is_met { "met:    " } else { "NOT met:" });
        }
    }
}

/// How to read the rows.
pub(super) fn print_notes(rounds: usize, is_placed: bool, is_cpu_exact: bool) {
    println!(
        "\nMedians of {rounds} rounds in which all servers take turns; \"ours\" is the median of each round's ratio of pureboot to \
         that server. MB are 10^6 bytes, first byte and completion are over the machines of a turn. A server that does not know \
         windowsize answers with windowsize 1. Delay and loss are played by the client, the same for all."
    );
    if is_placed {
        println!(
            "Server and client have a processor each (one for both in lock-step); without delay and loss they run at real-time \
             priority."
        );
    } else {
        println!(
            "Servers and client could not be placed on processors: other work on this machine counts too."
        );
    }
    if !is_cpu_exact {
        println!(
            "No control groups here: the CPU of servers that start processes is not counted in full."
        );
    }
}

/// Nearest rank; nothing of nothing.
fn percentile_ms(durations: &[Duration], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e3)
}
