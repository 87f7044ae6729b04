//! Content as the centre's orders see it.

use std::time::Duration;

use pureboot_protocol::{Category, ContentKey, Timestamp};
use smol::Timer;

use crate::uplink::obey::Content;
use crate::uplink::orders::Ending;

use super::report::{Order, Outcome, Progress, Status};
use super::run::Sync;

/// How often the centre's heartbeats get something newer to say of a sync that takes long.
const TELL_PERIOD: Duration = Duration::from_secs(5);

impl Content for Sync {
    async fn sync(
        &self,
        force: bool,
        categories: &[Category],
        progress: impl Fn(String),
    ) -> Option<Ending> {
        let order = Order { force, categories: categories.to_vec() };
        let tell = async {
            loop {
                if let Some(under_way) = self.state().progress {
                    progress(words(&under_way));
                }
                _ = Timer::after(TELL_PERIOD).await;
            }
        };
        ending(&smol::future::or(Self::sync(self, order), tell).await)
    }

    fn hear(&self, manifest_version: Option<u64>, now: Timestamp) {
        Self::hear(self, manifest_version, now);
    }

    async fn revalidate(&self, key: &ContentKey) -> Option<Ending> {
        ending(&self.invalidate(key).await)
    }
}

fn words(progress: &Progress) -> String {
    let Progress { files_done, files_total, bytes_done, bytes_total, .. } = progress;
    format!("{files_done} of {files_total} files, {bytes_done} of {bytes_total} bytes")
}

/// How an order has ended that led to `outcome`; none if its turn did not come.
fn ending(outcome: &Outcome) -> Option<Ending> {
    let Outcome { files_synced, bytes_transferred, .. } = outcome;
    match outcome.status {
        Status::Completed => {
            Some(Ending::completed(format!("{files_synced} files, {bytes_transferred} bytes")))
        }
        Status::Failed => Some(Ending::failed(outcome.summary())),
        Status::Skipped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: Status, errors: &[&str]) -> Outcome {
        let errors = errors.iter().map(|error| (*error).to_owned()).collect();
        let (files_synced, bytes_transferred) = (3, 4_096);
        Outcome {
            status,
            files_synced,
            bytes_transferred,
            bytes_reused: 0,
            errors,
            duration_seconds: 1.0,
        }
    }

    #[test]
    fn an_order_ends_as_its_sync_and_comes_again_if_that_was_skipped() {
        let completed = ending(&outcome(Status::Completed, &[]));
        assert_eq!(completed, Some(Ending::completed("3 files, 4096 bytes")));
        let failed = ending(&outcome(Status::Failed, &["no line", "no disk"]));
        assert_eq!(failed, Some(Ending::failed("failed: no line, and 1 more")));
        assert!(ending(&outcome(Status::Skipped, &["8 others wait"])).is_none());
    }
}
