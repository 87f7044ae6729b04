//! What a database that was lost is told again of boot sessions.

use anyhow::Context as _;

use crate::data_dir::DataDir;
use crate::session::journal::Journal;
use crate::store::Store;

/// Gives a database that knows no boot sessions those of the journal: machines that were being installed when the database was lost
/// still report, and are believed (FAULTS D9).
///
/// # Errors
/// The database cannot be read or written.
pub(crate) async fn sessions(store: &Store, data_dir: &DataDir) -> anyhow::Result<()> {
    if store.has_sessions().await.context("cannot read the boot sessions")? {
        return Ok(());
    }
    let journal = Journal::new(data_dir);
    let loaded = match smol::unblock(move || journal.load()).await {
        Ok(loaded) => loaded,
        Err(error) => {
            // It explains the past; the agent serves without it.
            log::warn!("no boot sessions are known from before: {error:#}");
            return Ok(());
        }
    };
    let sessions = loaded.sessions.iter();
    let known = sessions.filter_map(|session| Some((session.id, session.mac?, session.started_at)));
    store.remember_sessions(known.collect()).await.context("cannot keep the boot sessions")
}
