//! Chance that can be played again: everything drawn follows from a seed. Not for secrets.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed draws the same numbers.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A time between the two, both included, to the millisecond.
    pub fn duration_between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let spread_ms = longest.saturating_sub(shortest).as_millis();
        let drawn_ms = u128::from(self.next_u64()) % (spread_ms + 1);
        shortest + Duration::from_millis(u64::try_from(drawn_ms).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence_is_drawn() {
        let mut rng = Rng::from_seed(1_234_567);
        let drawn: Vec<_> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn a_duration_stays_between_its_ends_and_reaches_both() {
        let (shortest, longest) = (Duration::from_millis(5), Duration::from_millis(7));
        let mut rng = Rng::from_seed(1);
        let drawn: std::collections::BTreeSet<_> =
            (0..100).map(|_| rng.duration_between(shortest, longest).as_millis()).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(rng.duration_between(longest, shortest), longest);
    }
}
