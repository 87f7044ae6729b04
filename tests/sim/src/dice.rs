//! Chance by a seed: each part of a run draws from a stream of its own, so that one that draws more does not move the others.

use std::time::Duration;

use pureboot_agent::rng::Rng;

/// A stream of chance.
#[derive(Debug, Clone)]
pub struct Dice(Rng);

impl Dice {
    /// The stream `name` of `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = Rng::from_seed(seed ^ name);
        rng.next_u64();
        Self(rng)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// An index of something with `len` elements.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(u64::try_from(len).unwrap_or(u64::MAX))).unwrap_or(0)
    }

    /// True so often of a hundred times.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A time between the two, short ones as often as long ones: each doubling is as likely as the next.
    pub fn span(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let doublings = (longest.as_millis() / shortest.as_millis().max(1)).max(1).ilog2();
        let low =
            shortest * 2_u32.pow(u32::try_from(self.below(u64::from(doublings) + 1)).unwrap_or(0));
        self.0.duration_between(low, (low * 2).min(longest).max(low))
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.draw().to_le_bytes();
            chunk.iter_mut().zip(drawn).for_each(|(slot, byte)| *slot = byte);
        }
    }

    /// A generator for a part of the agent.
    pub fn rng(&mut self) -> Rng {
        Rng::from_seed(self.draw())
    }
}
