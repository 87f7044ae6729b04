//! The management listener on `<data_dir>/agent.sock`: what the command line asks the running agent (API.md §5).
//!
//! Whoever can open the socket may manage; the data directory is closed to all but the agent's user. Nothing of this is on the
//! listener that machines reach.

pub mod client;
mod metrics;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use pureboot_protocol::{ChangeId, ContentKey, ContentKeyError, Mac};
use pureboot_templates::BaseUrl;
use serde::de::DeserializeOwned;
use smol::LocalExecutor;
use smol::channel::bounded;

use crate::answers::keeper::Answers;
use crate::boot::booter::Booter;
use crate::cache::manage::{Requirement, Word};
use crate::cache::{Cache, manage as cache_routes};
use crate::clock;
use crate::conflicts::keeper::Conflicts;
use crate::conflicts::route as conflict_routes;
use crate::http::{
    self, Connection, CorrelationId, Response, Service, Target, problem, read_body, success,
};
use crate::nodes::follow::Follower;
use crate::nodes::mover::{self, Mover};
use crate::nodes::route as node_routes;
use crate::outbox::view::{ITEMS_MAX, Wish};
use crate::policy::route as policy_routes;
use crate::policy::site::SitePolicies;
use crate::session::recorder::Recorder;
use crate::session::route as session_route;
use crate::store::StoreError;
use crate::sync::housekeeper::Housekeeper;
use crate::sync::pinned::Pinned;
use crate::sync::run::Sync;
use crate::vitals::Vitals;

/// The longest order, in bytes.
const ORDER_LEN_MAX: usize = 4 * 1024;

/// How long an order may take to come in.
const ORDER_TIME: Duration = Duration::from_secs(10);

/// Answers the command line.
pub struct Management {
    /// Runs what outlives an answer.
    pub executor: Rc<LocalExecutor<'static>>,
    /// How the agent is.
    pub vitals: Rc<Vitals>,
    /// Content.
    pub cache: Cache,
    /// Brings content.
    pub sync: Rc<Sync>,
    /// Lets content go.
    pub housekeeper: Rc<Housekeeper>,
    /// What a person has pinned.
    pub pinned: Rc<Pinned>,
    /// What was seen of boots.
    pub recorder: Rc<Recorder>,
    /// Answer files.
    pub answers: Rc<Answers>,
    /// Where machines reach the agent, as far as it knows before one does.
    pub base: BaseUrl,
    /// Records.
    pub follower: Rc<Follower>,
    /// Where site and controller disagree.
    pub conflicts: Rc<Conflicts>,
    /// What people here want of nodes.
    pub mover: Mover,
    /// Decides what machines boot.
    pub booter: Rc<Booter>,
    /// The site's policies.
    pub policies: Rc<SitePolicies>,
}

/// Binds the socket; one that a former life has left behind is replaced. The caller holds the data directory's lock.
///
/// # Errors
/// The socket cannot be made.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let bind = || {
        if path.exists() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok::<_, std::io::Error>(listener)
    };
    bind().with_context(|| format!("cannot listen on {}", path.display()))
}

impl Service for Management {
    async fn handle(&self, request: Request<Incoming>, _: Connection) -> Response {
        let id = CorrelationId::of(&request);
        let not_found = |id: &CorrelationId| {
            problem(
                StatusCode::NOT_FOUND,
                "not_found",
                format!("there is no {}", request.uri().path()),
                id,
            )
        };
        let Ok(target) = Target::parse(request.uri()) else { return not_found(&id) };
        match (request.method(), target.segments().as_slice()) {
            (&Method::GET, ["api", "v1", "agent", "status"]) => success(self.vitals.report().await),
            (&Method::GET, ["api", "v1", "agent", "queue"]) => self.queue(&target, &id).await,
            (&Method::GET, ["api", "v1", "agent", "queue", name]) => self.queued(name, &id).await,
            (&Method::GET, ["api", "v1", "agent", "conflicts"]) => {
                let store = &self.vitals.store;
                conflict_routes::get_conflicts(&self.conflicts, store, &target, &id).await
            }
            (&Method::GET, ["api", "v1", "agent", "conflicts", name]) => {
                conflict_routes::get_conflict(&self.conflicts, &self.vitals.store, name, &id).await
            }
            (&Method::POST, ["api", "v1", "agent", "conflicts", name, "resolve"]) => {
                self.resolve(name, request, &id).await
            }
            (&Method::PATCH, ["api", "v1", "agent", "nodes", mac, "state"]) => {
                self.move_node(mac, request, &id).await
            }
            (&Method::GET, ["api", "v1", "agent", "boots"]) => {
                let name_of = |mac| self.vitals.store.node(mac)?.known?.record.hostname;
                session_route::get_boots(&self.recorder, name_of, &target, clock::now(), &id)
            }
            (&Method::GET, ["api", "v1", "agent", "answers"]) => self.answers.get_sheets(&id).await,
            (&Method::GET, ["api", "v1", "agent", "answers", mac, file]) => {
                self.answers.get_file(mac, file, &self.base, &id).await
            }
            (&Method::GET, ["api", "v1", "agent", "sync"]) => success(self.sync.state()),
            (&Method::POST, ["api", "v1", "agent", "sync"]) => self.sync(request, &id).await,
            (&Method::POST, ["api", "v1", "agent", "cache", "evict"]) => {
                self.evict(request, &id).await
            }
            (&Method::POST, ["api", "v1", "agent", "cache", "verify"]) => {
                let replace = |key: &ContentKey| self.sync.replace(key);
                cache_routes::verify_entries(&self.cache, replace, &target, &id).await
            }
            (&Method::GET, ["api", "v1", "agent", "cache", "pins"]) => success(self.pinned.names()),
            (&Method::PUT, ["api", "v1", "agent", "cache", "pins", _, ..]) => {
                self.pin(&target.rest(5), true, &id).await
            }
            (&Method::DELETE, ["api", "v1", "agent", "cache", "pins", _, ..]) => {
                self.pin(&target.rest(5), false, &id).await
            }
            (&Method::GET, ["api", "v1", "agent", "explain"]) => {
                policy_routes::get_explanation(&self.booter, &self.base, &target, &id).await
            }
            (&Method::GET, ["api", "v1", "agent", "policies"]) => success(self.policies.report()),
            (&Method::GET, ["api", "v1", "agent", "policies", "replay"]) => {
                success(Box::pin(self.booter.replay_all(None)).await)
            }
            (&Method::POST, ["api", "v1", "agent", "policies", "replay"]) => {
                let body = request.into_body();
                Box::pin(policy_routes::replay_against(&self.booter, &self.policies, body, &id))
                    .await
            }
            (&Method::POST, ["api", "v1", "agent", "policies", name, "reset"]) => {
                policy_routes::reset(&self.policies, name, &id).await
            }
            (&Method::GET, ["metrics"]) => self.metrics().await,
            (&Method::GET, ["api", "v1", "agent", "cache"]) => self.cache(&id),
            (&Method::GET, ["api", "v1", "agent", "cache", "entries"]) => {
                self.cache_entries(&target, &id).await
            }
            (&Method::GET, ["api", "v1", "agent", "cache", "given-up"]) => {
                success(self.sync.given_up())
            }
            (&Method::GET, ["api", "v1", "agent", "cache", "nodes"]) => {
                node_routes::get_nodes(&self.vitals.store, &self.follower, &target, &id)
            }
            (&Method::DELETE, ["api", "v1", "agent", "cache", "nodes", rest @ ..])
                if rest.len() <= 1 =>
            {
                let mac = rest.first().copied();
                node_routes::delete_nodes(&self.vitals.store, &self.follower, mac, &id).await
            }
            (&Method::PUT, ["api", "v1", "agent", "cache", _, ..]) => {
                let why = |key: &ContentKey| self.housekeeper.kept(key);
                cache_routes::put_entry(&self.cache, why, &target.rest(4), request, &id).await
            }
            (&Method::DELETE, ["api", "v1", "agent", "cache", _, ..]) => {
                let why = |key: &ContentKey| self.housekeeper.kept(key);
                let requirement = |key: &ContentKey| self.requirement(key);
                let name = target.rest(4);
                cache_routes::delete_entry(&self.cache, why, requirement, &name, &id).await
            }
            _ => not_found(&id),
        }
    }
}

impl Management {
    /// Syncs, and answers when that is over; it goes on if the caller does not wait.
    async fn sync(&self, request: Request<Incoming>, id: &CorrelationId) -> Response {
        let order = match read_order(request, id).await {
            Ok(order) => order.unwrap_or_default(),
            Err(response) => return *response,
        };
        if self.vitals.standing.agent_id().is_none() {
            return not_joined("there is no content to sync", id);
        }
        self.follower.wish();
        // The latest settings come with a heartbeat, and may come after this sync.
        self.vitals.standing.hasten();
        let (sync, (done, outcome)) = (Rc::clone(&self.sync), bounded(1));
        let syncing = async move {
            // Nobody may be left to hear it.
            _ = done.try_send(sync.sync(order).await);
        };
        self.executor.spawn(syncing).detach();
        match outcome.recv().await {
            Ok(outcome) => success(outcome),
            Err(_) => {
                problem(StatusCode::INTERNAL_SERVER_ERROR, "sync_lost", "the sync broke off", id)
            }
        }
    }

    async fn resolve(
        &self,
        name: &str,
        request: Request<Incoming>,
        id: &CorrelationId,
    ) -> Response {
        let decision = match read_needed(request, "{\"resolution\": \"keep_central\"}", id).await {
            Ok(decision) => decision,
            Err(response) => return *response,
        };
        if self.vitals.standing.agent_id().is_none() {
            return not_joined("there is nobody to disagree with", id);
        }
        let store = &self.vitals.store;
        conflict_routes::resolve(&self.conflicts, store, name, &decision, id).await
    }

    async fn move_node(
        &self,
        mac: &str,
        request: Request<Incoming>,
        id: &CorrelationId,
    ) -> Response {
        let mac = match mac.parse::<Mac>() {
            Ok(mac) => mac,
            Err(error) => {
                return problem(StatusCode::BAD_REQUEST, "invalid_mac", error.to_string(), id);
            }
        };
        let example = "{\"state\": \"reprovision\", \"wish\": \"a UUID of your own\"}";
        match read_needed(request, example, id).await {
            Ok(wish) => mover::answer(&self.mover.take(mac, wish).await, id),
            Err(response) => *response,
        }
    }

    async fn evict(&self, request: Request<Incoming>, id: &CorrelationId) -> Response {
        let order = match read_needed(request, "{\"policy\": \"expired\"}", id).await {
            Ok(order) => order,
            Err(response) => return *response,
        };
        match self.housekeeper.evict(&order).await {
            Ok(evicted) => success(evicted),
            Err(error) => {
                let (status, code) = (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed");
                problem(status, code, format!("cannot evict: {error:#}"), id)
            }
        }
    }

    fn requirement(&self, key: &ContentKey) -> Requirement {
        match (self.housekeeper.is_in_manifest(key), self.housekeeper.is_cut_off()) {
            (false, _) => Requirement::None,
            (true, false) => Requirement::Replaceable,
            (true, true) => Requirement::Irreplaceable,
        }
    }

    async fn pin(&self, name: &str, is_pinned: bool, id: &CorrelationId) -> Response {
        let key: ContentKey = match name.parse() {
            Ok(key) => key,
            Err(error) => {
                let detail = ContentKeyError::to_string(&error);
                return problem(StatusCode::BAD_REQUEST, "invalid_content_key", detail, id);
            }
        };
        match self.pinned.set(&key, is_pinned).await {
            Ok(_) => success(self.sync.pin_state(&key, is_pinned)),
            Err(error) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                problem(status, "storage_failed", format!("{error:#}"), id)
            }
        }
    }

    async fn metrics(&self) -> Response {
        let verdicts = self.housekeeper.verdicts().counts();
        let text = metrics::render(&self.vitals.report().await, &self.cache.stats(), verdicts);
        http::text(StatusCode::OK, metrics::CONTENT_TYPE, text)
    }

    /// What waits for the controller: `limit` (500 at most, 0 for the figures alone), `after` (a number), `all` (`true`).
    async fn queue(&self, target: &Target, id: &CorrelationId) -> Response {
        let number = |name: &str, usual: u64| match target.query(name) {
            None => Ok(usual),
            Some(text) => text.parse().map_err(|_| format!("{name} is '{text}': give a number")),
        };
        let (limit, after) = match (number("limit", ITEMS_MAX), number("after", 0)) {
            (Ok(limit), Ok(after)) => (limit, after),
            (Err(detail), _) | (_, Err(detail)) => {
                return problem(StatusCode::BAD_REQUEST, "invalid_query", detail, id);
            }
        };
        let wish = match target.query("all").as_deref() {
            _ if limit == 0 => Wish::Figures,
            Some("true") => Wish::All { limit, after },
            _ => Wish::Open { limit, after },
        };
        match self.vitals.outbox.queue(wish).await {
            Ok(queue) => success(queue),
            Err(error) => unread(&error, id),
        }
    }

    /// One change, by its number or its id.
    async fn queued(&self, name: &str, id: &CorrelationId) -> Response {
        let found = match (name.parse(), ChangeId::try_from(name.to_owned())) {
            (_, Ok(change)) => self.vitals.outbox.queued_as(change).await,
            (Ok(seq), _) => self.vitals.outbox.queued(seq).await,
            _ => Ok(None),
        };
        match found {
            Ok(Some(item)) => success(item),
            Ok(None) => {
                let detail = format!(
                    "there is no change '{name}'; what is delivered is kept for a week, `pureboot-agent queue ls --all` lists it"
                );
                problem(StatusCode::NOT_FOUND, "not_found", detail, id)
            }
            Err(error) => unread(&error, id),
        }
    }

    fn cache(&self, id: &CorrelationId) -> Response {
        let standing = &self.vitals.standing;
        match standing.site_config() {
            Some(site) => {
                let content = self.sync.state();
                let word = Word {
                    settings_version: standing.config_version(),
                    settings_heard_at: standing.last_heartbeat_at(),
                    manifest_version: content.manifest_version,
                    manifest_coming: content.manifest_coming,
                };
                let verdicts = self.housekeeper.verdicts();
                let node_cache = self.vitals.node_cache();
                cache_routes::get_cache(&self.cache, &site, word, node_cache, verdicts.counts())
            }
            None => not_joined("the site's cache policy is not known", id),
        }
    }

    async fn cache_entries(&self, target: &Target, id: &CorrelationId) -> Response {
        let verdicts = self.housekeeper.verdicts();
        let why = |key: &ContentKey| (self.housekeeper.kept(key), verdicts.told(key));
        match self.housekeeper.departures().await {
            Ok(departures) => cache_routes::get_entries(&self.cache, why, &departures, target, id),
            Err(error) => cache_routes::storage_problem(&error.into(), id),
        }
    }
}

/// The order in a request's body, which must not be empty; `example` is one.
async fn read_needed<T: DeserializeOwned>(
    request: Request<Incoming>,
    example: &str,
    id: &CorrelationId,
) -> Result<T, Box<Response>> {
    read_order(request, id).await?.ok_or_else(|| {
        let detail = format!("the body is empty: say what is to be done, as in {example}");
        Box::new(problem(StatusCode::BAD_REQUEST, "invalid_order", detail, id))
    })
}

/// The order in a request's body; none in an empty one.
async fn read_order<T: DeserializeOwned>(
    request: Request<Incoming>,
    id: &CorrelationId,
) -> Result<Option<T>, Box<Response>> {
    let deadline = clock::monotonic() + ORDER_TIME;
    let body = read_body(request.into_body(), ORDER_LEN_MAX, deadline).await;
    let body = body.map_err(|error| Box::new(error.answer(id)))?;
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&body).map(Some).map_err(|error| {
        let detail = format!("the body is no order: {error}");
        Box::new(problem(StatusCode::BAD_REQUEST, "invalid_order", detail, id))
    })
}

fn unread(error: &StoreError, id: &CorrelationId) -> Response {
    let detail = format!("the queue cannot be read now: {error}");
    problem(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", detail, id)
}

fn not_joined(consequence: &str, id: &CorrelationId) -> Response {
    let detail =
        format!("{consequence} before the agent has joined; `pureboot-agent status` tells more");
    problem(StatusCode::SERVICE_UNAVAILABLE, "not_joined", detail, id)
}
