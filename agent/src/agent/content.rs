//! The parts that bring content, put together.

use std::rc::Rc;

use smol::LocalExecutor;

use crate::cache::Cache;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::policy::judge::{self, CacheJury};
use crate::policy::site::SitePolicies;
use crate::store::Store;
use crate::sync::demand::Demand;
use crate::sync::flights::Flights;
use crate::sync::housekeeper::Housekeeper;
use crate::sync::keeper::Keeper;
use crate::sync::line::Line;
use crate::sync::pinned::Pinned;
use crate::sync::run::{self, Sync};
use crate::sync::through::Bypass;
use crate::sync::wishes::Wishes;
use crate::uplink::controller::Controller;
use crate::uplink::standing::Standing;

/// The parts that bring content.
pub(super) struct Content {
    pub(super) flights: Rc<Flights>,
    pub(super) demand: Rc<Demand>,
    pub(super) sync: Rc<Sync>,
    pub(super) housekeeper: Rc<Housekeeper>,
    pub(super) pinned: Rc<Pinned>,
}

/// What they rest on.
pub(super) struct Parts<'a> {
    pub(super) executor: &'a Rc<LocalExecutor<'static>>,
    pub(super) config: &'a Config,
    pub(super) data_dir: &'a DataDir,
    pub(super) cache: &'a Cache,
    pub(super) store: &'a Store,
    pub(super) controller: &'a Rc<Controller>,
    pub(super) standing: &'a Rc<Standing>,
    pub(super) keeper: Rc<Keeper>,
    pub(super) policies: &'a Rc<SitePolicies>,
}

impl Content {
    pub(super) fn assemble(parts: Parts<'_>) -> anyhow::Result<Self> {
        let Parts { executor, config, data_dir, cache, store, controller, standing, .. } = parts;
        let Parts { keeper, policies, .. } = parts;
        let pinned = Rc::new(Pinned::load(data_dir)?);
        let housekeeper = Rc::new(Housekeeper::new(
            cache.clone(),
            Rc::clone(&keeper),
            Rc::clone(standing),
            Rc::clone(&pinned),
        ));
        let line = Rc::new(Line::new(&config.sync));
        let flights = Flights::new(
            Rc::clone(executor),
            cache.clone(),
            Rc::clone(controller),
            Rc::clone(&housekeeper),
            Rc::clone(&line),
        );
        let (flights, wishes) = (Rc::new(flights), Wishes::default());
        let demand = Demand::new(
            cache.clone(),
            Rc::clone(&keeper),
            Rc::clone(&flights),
            Bypass::new(cache.clone(), Rc::clone(controller), line),
            Rc::clone(standing),
            wishes.clone(),
        );
        let jury = CacheJury::new(judge::Parts {
            policies: Rc::clone(policies),
            cache: cache.clone(),
            keeper: Rc::clone(&keeper),
            store: store.clone(),
        });
        let sync = Sync::new(run::Parts {
            cache: cache.clone(),
            keeper,
            flights: Rc::clone(&flights),
            housekeeper: Rc::clone(&housekeeper),
            pinned: Rc::clone(&pinned),
            wishes,
            jury: Some(Rc::new(jury)),
        });
        let (demand, sync) = (Rc::new(demand), Rc::new(sync));
        Ok(Self { flights, demand, sync, housekeeper, pinned })
    }
}
