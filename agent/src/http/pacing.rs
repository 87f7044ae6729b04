//! The bytes of a body at a speed, for machines that hang when they come as fast as the line carries them.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smol::Timer;

use super::loan::Chunk;

/// How many bytes leave at once, whatever the speed: six packets of Ethernet, where the driver that this is for (`bnxt` of iPXE) has
/// room for eight.
pub(super) const BURST_LEN: usize = 8 * 1024;

/// Lets bursts go one after the other.
#[derive(Debug)]
pub(super) struct Pacer {
    bytes_per_s: NonZeroU32,
    /// Until when the last burst takes; none before the first.
    rest: Option<Timer>,
}

impl Pacer {
    /// So many bytes in a second at most.
    pub(super) fn new(bytes_per_s: NonZeroU32) -> Self {
        Self { bytes_per_s, rest: None }
    }

    /// Takes the next burst off `chunk` once the one before it has had its time.
    pub(super) fn poll_burst(
        &mut self,
        chunk: &mut Chunk,
        context: &mut Context<'_>,
    ) -> Poll<Chunk> {
        if let Some(rest) = &mut self.rest {
            ready!(Pin::new(rest).poll(context));
        }
        let burst = chunk.split_to(BURST_LEN);
        self.rest = Some(Timer::after(self.time_of(burst.len())));
        Poll::Ready(burst)
    }

    fn time_of(&self, len: usize) -> Duration {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Duration::from_secs_f64(f64::from(len) / f64::from(self.bytes_per_s.get()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::clock::monotonic;
    use crate::http::testing::run;

    #[test]
    fn bursts_are_short_and_take_their_time() {
        run(async |_| {
            let mut pacer = Pacer::new(NonZeroU32::new(200_000).expect("not zero"));
            let mut chunk = Chunk::Bytes(vec![7; 2 * BURST_LEN + 5].into());
            let began = monotonic();
            for len in [BURST_LEN, BURST_LEN, 5] {
                let burst = poll_fn(|context| pacer.poll_burst(&mut chunk, context)).await;
                assert_eq!(burst.len(), len);
            }
            assert!(chunk.is_empty());
            // The last one is not waited for.
            assert!(began.elapsed() >= 2 * pacer.time_of(BURST_LEN), "{:?}", began.elapsed());
        });
    }
}
