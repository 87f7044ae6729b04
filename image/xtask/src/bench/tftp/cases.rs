//! What is read, and what is wanted of it.

use std::time::Duration;

use crate::bench::load::{Load, Path};

/// The files, the same for all servers.
pub(super) struct Files([File; 5]);

impl Files {
    pub(super) fn new(make: impl Fn(usize) -> Vec<u8>) -> Self {
        let sizes = [
            ("bench-64m", 64 << 20),
            ("bench-8m", 8 << 20),
            ("bench-1m", 1 << 20),
            ("bench-256k", 256 << 10),
            ("bench-64k", 64 << 10),
        ];
        Self(sizes.map(|(name, size)| (name, make(size))))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.0.iter().map(|(name, content)| (*name, content.as_slice()))
    }
}

/// One row.
pub(super) struct Case<'a> {
    pub(super) title: &'static str,
    pub(super) load: Load<'a>,
    pub(super) wanted: Wanted,
}

/// What the agent should reach beside the best peer of the row. More is better.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The ratio of what is compared.
    pub(super) ratio: f64,
    pub(super) compared: Compared,
    /// The most CPU per byte, as a ratio.
    pub(super) cpu_ratio_max: Option<f64>,
    /// The longest time to the first byte (p99).
    pub(super) first_byte_max: Option<Duration>,
}

/// What a row compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// Bytes per second of all machines together.
    Speed,
    /// How fast the slowest machines are done (p99).
    Completion,
}

const AS_FAST: Wanted =
    Wanted { ratio: 1.0, compared: Compared::Speed, cpu_ratio_max: None, first_byte_max: None };
const AS_STEADY: Wanted = Wanted { compared: Compared::Completion, ..AS_FAST };

type File = (&'static str, Vec<u8>);

fn load(file: &File, clients: usize, block_len: usize, window: usize) -> Load<'_> {
    let (name, content) = file;
    Load { name, content, block_len, window, clients, path: Path::LOOPBACK }
}

fn far(load: Load<'_>) -> Load<'_> {
    let path = Path { round_trip: Duration::from_millis(20), ..load.path };
    Load { path, ..load }
}

fn lossy(load: Load<'_>, patience_ms: u64) -> Load<'_> {
    let patience = Duration::from_millis(patience_ms);
    let path = Path { lost_per_mille: 10, patience, ..load.path };
    Load { path, ..load }
}

/// Tells by the answer whether a server knows windowsize.
pub(super) fn probe(files: &Files) -> Load<'_> {
    let Files([.., tiny]) = files;
    load(tiny, 1, 1_468, 16)
}

/// Every row. The options are those of iPXE (1432), EDK2 (1468, window 4) and undionly.kpxe (1456).
pub(super) fn all(files: &Files) -> Vec<Case<'_>> {
    let Files([large, middle, loader, small, tiny]) = files;
    let case = |title, load, wanted| Case { title, load, wanted };
    let half_the_cpu = Wanted { cpu_ratio_max: Some(0.5), ..AS_FAST };
    let crowd = Wanted { first_byte_max: Some(Duration::from_millis(50)), ..AS_FAST };
    vec![
        case("64 MB, block 512, window 1", load(large, 1, 512, 1), AS_FAST),
        case("64 MB, block 1432, window 1", load(large, 1, 1_432, 1), AS_FAST),
        case("64 MB, block 1468, window 1", load(large, 1, 1_468, 1), AS_FAST),
        case(
            "64 MB, block 1468, window 16",
            load(large, 1, 1_468, 16),
            Wanted { ratio: 1.2, ..half_the_cpu },
        ),
        case(
            "64 MB, block 1468, window 64",
            load(large, 1, 1_468, 64),
            Wanted { ratio: 1.5, ..half_the_cpu },
        ),
        case("200 x 1 MB, block 1432, window 1", load(loader, 200, 1_432, 1), AS_FAST),
        case(
            "200 x 1 MB, block 1468, window 4",
            load(loader, 200, 1_468, 4),
            Wanted { ratio: 1.5, ..AS_FAST },
        ),
        case(
            "1,000 x 64 KB, block 1456, window 1",
            load(tiny, 1_000, 1_456, 1),
            Wanted { ratio: 2.0, ..crowd },
        ),
        case("20 ms, 64 KB, block 1432, window 1", far(load(tiny, 1, 1_432, 1)), AS_STEADY),
        case("20 ms, 1 MB, block 1468, window 4", far(load(loader, 1, 1_468, 4)), AS_STEADY),
        case("20 ms, 8 MB, block 1468, window 64", far(load(middle, 1, 1_468, 64)), AS_STEADY),
        case(
            "1 % lost, 50 x 256 KB, block 1432, window 1, client waits 250 ms",
            lossy(load(small, 50, 1_432, 1), 250),
            AS_STEADY,
        ),
        case(
            "1 % lost, 50 x 256 KB, block 1432, window 1, client waits 4 s",
            lossy(load(small, 50, 1_432, 1), 4_000),
            AS_STEADY,
        ),
        case(
            "1 % lost, 50 x 256 KB, block 1468, window 4, client waits 4 s",
            lossy(load(small, 50, 1_468, 4), 4_000),
            AS_STEADY,
        ),
        case(
            "1 % lost, 20 x 1 MB, block 1468, window 16, client waits 4 s",
            lossy(load(loader, 20, 1_468, 16), 4_000),
            AS_STEADY,
        ),
    ]
}
