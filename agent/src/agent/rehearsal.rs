//! Whether this program could serve here: all that a start does, on copies, without a port that is in use, and a decision for each of
//! some machines; and a check of the same kind while it serves.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use pureboot_protocol::Mac;
use smol::LocalExecutor;
use smol::channel::bounded;

use super::sockets::{Sockets, out_of_the_way};
use super::{Agent, Held, Shared, confine};
use crate::boot::booter::Booter;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::store::{self, Quota, Store, StoreOptions};
use crate::update::pin::Pin;

/// Machines whose decision is looked at.
const MACHINES_MAX: usize = 64;

/// A machine that no site has: the first address that documents may use (RFC 7042 §2.1.2).
const STRANGER: &str = "00:00:5e:00:53:00";

/// Starts with copies of what this site has in `data_dir`, decides for some of its machines, and ends. Returns for how many.
///
/// # Errors
/// This program could not serve here; the text says why.
pub fn rehearse(config: Config, data_dir: DataDir) -> anyhow::Result<usize> {
    let config = out_of_the_way(config);
    let options = StoreOptions { data_dir: data_dir.root().to_owned(), quota: Quota::default() };
    let _lock = store::lock_data_dir(data_dir.root())?;
    let sockets = Sockets::bind(&config, &data_dir)?;
    let confinement = confine(&config, &data_dir);
    // The way back is text out of the database, which is not believed outside of the cage.
    store::check_way_back(&options)
        .context("the site's database could not be used by the version before")?;
    let executor = Rc::new(LocalExecutor::new());
    #[expect(clippy::disallowed_methods, reason = "shell: the command's one wait")]
    smol::block_on(executor.run(async {
        let sockets = sockets.watch()?;
        let address = sockets.http_address;
        let held = Held { launched: None, confinement, pin: Pin::none() };
        let Agent { shared, renderer, .. } =
            Agent::assemble(&executor, config, data_dir, sockets, held).await?;
        let (sightings, _seen) = bounded(1);
        let booter = shared.booter(renderer, sightings);
        decide(&booter, &shared.store, address).await
    }))
}

/// Decides what some machines of the site would boot, and one that nobody knows; nothing of it is remembered.
async fn decide(booter: &Booter, store: &Store, address: SocketAddr) -> anyhow::Result<usize> {
    let stranger: Mac = STRANGER.parse()?;
    let known = store.nodes().into_iter().map(|node| node.mac()).take(MACHINES_MAX);
    let machines: Vec<_> = known.chain([stranger]).collect();
    for mac in &machines {
        let explanation = Box::pin(booter.explain(*mac, address.into())).await;
        ensure!(!explanation.decision.is_empty(), "no decision comes of the question of {mac}");
    }
    Ok(machines.len())
}

impl Shared {
    /// Watches over this program where it is on trial.
    pub(super) fn prove(&self, booter: &Rc<Booter>, address: SocketAddr) {
        let (updater, booter, store) =
            (Rc::clone(&self.updater), Rc::clone(booter), self.store.clone());
        self.spawn(async move {
            let check = async || match decide(&booter, &store, address).await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error:#}")),
            };
            updater.prove(check).await;
        });
    }
}
