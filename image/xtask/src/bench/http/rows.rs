//! What is asked for, what is wanted of it, and the table that it makes.

use std::time::Duration;

use super::client::{End, Load, Outcome, request};
use crate::bench::median;
use crate::bench::peers::Server;

/// The names of the objects, and the length of the small one in bytes.
pub(super) const LARGE: &str = "bench-large";
pub(super) const SMALL: &str = "bench-1k";
pub(super) const SMALL_LEN: usize = 1_024;

/// The length of a range, in bytes.
const RANGE_LEN: u64 = 1 << 20;
/// How many ranges there are to ask for.
const RANGES: u64 = 256;
/// How long a turn of short answers is.
const TURN: Duration = Duration::from_secs(2);
/// Two runs of the same server differ by more.
const NOISE: f64 = 0.02;
/// What a fresh request may take longer on a busy machine although nothing is different, in milliseconds.
const PROBE_NOISE_MS: f64 = 0.3;

/// Connections that somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    None,
    Idle,
    Slow,
    Stalled,
    All,
}

impl Held {
    /// How many are idle, drip their heads, and have stopped to read.
    pub(super) fn counts(self) -> (usize, usize, usize) {
        match self {
            Self::None => (0, 0, 0),
            Self::Idle => (1_000, 0, 0),
            Self::Slow => (0, 500, 0),
            Self::Stalled => (0, 0, 100),
            Self::All => (1_000, 500, 100),
        }
    }
}

/// What a turn does.
#[derive(Debug)]
pub(super) enum Kind {
    Load(Load),
    Fresh(Held),
}

/// What is wanted of the agent.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    /// The least speed, as a ratio to nginx.
    speed_ratio: Option<f64>,
    /// The most CPU for a byte, as a ratio to nginx.
    cpu_ratio_max: Option<f64>,
    /// The least answers in a second.
    rate_min: Option<f64>,
    /// The longest answer (p99), in milliseconds.
    p99_max_ms: Option<f64>,
    /// The longest answer (p99), as a ratio to nginx.
    p99_ratio_max: Option<f64>,
}

const COUNTED: Wanted = Wanted {
    speed_ratio: None,
    cpu_ratio_max: None,
    rate_min: None,
    p99_max_ms: None,
    p99_ratio_max: None,
};
const LARGE_WANTED: Wanted = Wanted { speed_ratio: Some(1.0), cpu_ratio_max: Some(1.5), ..COUNTED };

/// What one turn measured.
#[derive(Debug, Clone, Copy)]
struct Figures {
    mb_per_second: f64,
    rate: f64,
    cpu_seconds_per_gb: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    failures: usize,
    held: usize,
}

/// One row, and what came of it: the agent first.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    wanted: Wanted,
    turns: [Vec<Figures>; 2],
}

/// Every row. `machines` are the questions of machines that are known, `large_len` is the length of the large object.
pub(super) fn all(machines: &[String], large_len: u64) -> Vec<Row> {
    let row = |title, kind, wanted| Row { title, kind, wanted, turns: [Vec::new(), Vec::new()] };
    let load = |requests: &[Vec<u8>], connections, end| {
        Kind::Load(Load { requests: requests.to_vec(), connections, end })
    };
    let whole = [request(&format!("/files/images/{LARGE}"), "")];
    let small = [request(&format!("/files/images/{SMALL}"), "")];
    let scripts: Vec<_> = machines.iter().map(|path| request(path, "")).collect();
    let ranges: Vec<_> = (0..RANGES).map(|number| range(number, large_len)).collect();
    let scripts_wanted = Wanted { rate_min: Some(40_000.0), p99_max_ms: Some(5.0), ..COUNTED };
    let fresh_wanted = Wanted { p99_ratio_max: Some(2.0), ..COUNTED };
    vec![
        row("large object, 1 client", load(&whole, 1, End::OneAnswer), LARGE_WANTED),
        row("large object, 8 clients", load(&whole, 8, End::OneAnswer), LARGE_WANTED),
        row("ranges of 1 MiB, 16 connections", load(&ranges, 16, End::After(TURN)), LARGE_WANTED),
        row("1 KB, 64 connections", load(&small, 64, End::After(TURN)), COUNTED),
        row("1 KB, 1,000 connections", load(&small, 1_000, End::After(TURN)), COUNTED),
        row(
            "boot scripts, 64 connections",
            load(&scripts, scripts.len(), End::After(TURN)),
            scripts_wanted,
        ),
        row("fresh requests, nobody else", Kind::Fresh(Held::None), fresh_wanted),
        row("fresh requests beside 1,000 idle", Kind::Fresh(Held::Idle), fresh_wanted),
        row("fresh requests beside 500 slow", Kind::Fresh(Held::Slow), fresh_wanted),
        row("fresh requests beside 100 stalled", Kind::Fresh(Held::Stalled), fresh_wanted),
        row("fresh requests beside all of these", Kind::Fresh(Held::All), fresh_wanted),
    ]
}

/// A range that no other connection reads at the moment, and not where the last one ended.
fn range(number: u64, large_len: u64) -> Vec<u8> {
    let last = large_len.saturating_sub(RANGE_LEN);
    let from = number.wrapping_mul(7_919 * 4_099) % last.max(1);
    let fields = format!("Range: bytes={from}-{}\r\n", from + RANGE_LEN - 1);
    request(&format!("/files/images/{LARGE}"), &fields)
}

impl Row {
    /// Takes up what server `number` did in its turn.
    pub(super) fn take(&mut self, number: usize, outcome: &Outcome, cpu_seconds: f64) {
        let (bytes, answers) = (outcome.bytes as f64, outcome.latency.len() as f64);
        let seconds = outcome.elapsed.as_secs_f64();
        let mut latency = outcome.latency.clone();
        latency.sort_unstable();
        let figures = Figures {
            mb_per_second: bytes / 1e6 / seconds,
            rate: answers / seconds,
            cpu_seconds_per_gb: cpu_seconds / (bytes / 1e9),
            cpu_us: cpu_seconds / answers * 1e6,
            p50_ms: percentile_ms(&latency, 50),
            p99_ms: percentile_ms(&latency, 99),
            failures: outcome.failures,
            held: outcome.held,
        };
        self.turns.iter_mut().skip(number).take(1).for_each(|turns| turns.push(figures));
    }

    fn median_of(&self, number: usize, figure: impl Fn(&Figures) -> f64) -> f64 {
        let turns = self.turns.get(number).map(Vec::as_slice).unwrap_or_default();
        median(turns.iter().map(figure).collect())
    }

    /// The median of the ratios of each round, ours to nginx's.
    fn ratio(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        let [ours, theirs] = &self.turns;
        median(ours.iter().zip(theirs).map(|(our, their)| figure(our) / figure(their)).collect())
    }

    /// Each wanted figure in words, and whether it is met.
    fn verdicts(&self) -> Vec<(String, bool)> {
        let Wanted { speed_ratio, cpu_ratio_max, rate_min, p99_max_ms, p99_ratio_max } =
            self.wanted;
        let mut verdicts = Vec::new();
        if let Some(wanted) = speed_ratio {
            let got = self.ratio(|figures| figures.mb_per_second);
            let text = format!("speed {got:.2}x of nginx (wanted >= {wanted:.1})");
            verdicts.push((text, got >= wanted - NOISE));
        }
        if let Some(max) = cpu_ratio_max {
            let got = self.ratio(|figures| figures.cpu_seconds_per_gb);
            let text = format!("CPU per byte {got:.2}x of nginx (wanted <= {max:.1})");
            verdicts.push((text, got <= max + NOISE));
        }
        if let Some(min) = rate_min {
            let got = self.median_of(0, |figures| figures.rate);
            verdicts.push((format!("{got:.0} answers/s (wanted >= {min:.0})"), got >= min));
        }
        if let Some(max) = p99_max_ms {
            let got = self.median_of(0, |figures| figures.p99_ms);
            verdicts.push((format!("p99 {got:.2} ms (wanted <= {max:.0})"), got <= max));
        }
        if let Some(max) = p99_ratio_max {
            let (our, their) =
                (self.median_of(0, |it| it.p99_ms), self.median_of(1, |it| it.p99_ms));
            let text = format!("p99 {our:.2} ms, nginx's {their:.2} ms (wanted <= {max:.1}x)");
            verdicts.push((text, our <= their * max + PROBE_NOISE_MS));
        }
        let failures: usize = self.turns.iter().take(1).flatten().map(|it| it.failures).sum();
        verdicts.push((format!("{failures} failed (wanted 0)"), failures == 0));
        verdicts
    }

    /// What is wanted and not met.
    pub(super) fn missed(&self) -> Vec<String> {
        let missed = self.verdicts().into_iter().filter(|(_, is_met)| !is_met);
        missed.map(|(text, _)| format!("{}: {text}", self.title)).collect()
    }

    pub(super) fn print(&self, servers: &[Server]) {
        println!("\n{}", self.title);
        println!(
            "  {:<9} {:>9} {:>11} {:>9} {:>10} {:>9} {:>9} {:>7} {:>6}",
            "server",
            "MB/s",
            "answers/s",
            "CPU s/GB",
            "CPU us",
            "p50 ms",
            "p99 ms",
            "failed",
            "held"
        );
        for (number, (server, turns)) in servers.iter().zip(&self.turns).enumerate() {
            let of = |figure: fn(&Figures) -> f64| self.median_of(number, figure);
            println!(
                "  {:<9} {:>9.1} {:>11.0} {:>9.3} {:>10.2} {:>9.3} {:>9.3} {:>7} {:>6}",
                server.name,
                of(|figures| figures.mb_per_second),
                of(|figures| figures.rate),
                of(|figures| figures.cpu_seconds_per_gb),
                of(|figures| figures.cpu_us),
                of(|figures| figures.p50_ms),
                of(|figures| figures.p99_ms),
                turns.iter().map(|figures| figures.failures).sum::<usize>(),
                turns.iter().map(|figures| figures.held).min().unwrap_or(0),
            );
        }
        println!(
            "  ours to nginx's: speed {:.2}x, answers {:.2}x, CPU {:.2}x, p99 {:.2}x",
            self.ratio(|figures| figures.mb_per_second),
            self.ratio(|figures| figures.rate),
            self.ratio(|figures| figures.cpu_us),
            self.ratio(|figures| figures.p99_ms),
        );
        for (text, is_met) in self.verdicts() {
            println!("  {} {text}", if is_met { "met:    " } else { "NOT met:" });
        }
    }
}

/// How to read the rows.
pub(super) fn print_notes(rounds: usize, is_placed: bool) {
    println!(
        "\nMedians of {rounds} rounds in which both servers take turns; \"ours to nginx's\" is the median of each round's ratio. MB are \
         10^6 bytes. Each connection is from an address of its own. nginx is one process with sendfile and without a log; where the agent \
         makes a boot script (the record looked up, the decision made, the script rendered, the boot session told), nginx returns a \
         fixed 1 KB. The controller is away, so that scripts are from the site's record. \"held\" is how many of the held connections \
         the server had not closed at the end; heads that drip are given up after 5 s."
    );
    if is_placed {
        println!("Servers have one processor and the client the other, at real-time priority.");
    } else {
        println!(
            "Servers and client could not be placed on processors: other work on this machine counts too."
        );
    }
}

/// Nearest rank in sorted durations.
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e3)
}
