//! Remembers when the controller was lost and found again, for the next life of the agent.

use smol::channel::Receiver;

use crate::store::Store;
use crate::uplink::connectivity::{Line, Remembered};
use crate::uplink::standing::Standing;

/// Writes down what `changes` of the line say that the next life has to know; `remembered` is what this life has found. A line that
/// only falters is forgotten with this life, so that an agent whose controller answers writes nothing.
pub async fn keep(
    store: &Store,
    standing: &Standing,
    changes: Receiver<Line>,
    mut remembered: Remembered,
) {
    while let Ok(line) = changes.recv().await {
        let offline_since = match line {
            Line::Offline { since } => Some(since),
            Line::Connected { .. } => None,
            Line::Untried | Line::Degraded { .. } => continue,
        };
        if offline_since == remembered.offline_since {
            continue;
        }
        let last_online_at = standing.last_online_at();
        let news = Remembered { offline_since, last_online_at };
        match store.save_line(news).await {
            Ok(()) => remembered = news,
            Err(error) => log::warn!(error:%; "how the line is cannot be kept for a restart"),
        }
    }
}
