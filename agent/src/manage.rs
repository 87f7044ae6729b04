//! The management listener on `<data_dir>/agent.sock`: what the command line asks the running agent (API.md §5).
//!
//! Whoever can open the socket may manage; the data directory is closed to all but the agent's user. Nothing of this is on the
//! listener that machines reach.

pub mod client;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use smol::net::unix::UnixListener;

use crate::cache::{Cache, manage as cache_routes};
use crate::clock;
use crate::http::{Connection, CorrelationId, Response, Service, Target, problem, success};
use crate::session::recorder::Recorder;
use crate::session::route as session_route;
use crate::vitals::Vitals;

/// Answers the command line.
pub struct Management {
    /// How the agent is.
    pub vitals: Rc<Vitals>,
    /// Content.
    pub cache: Cache,
    /// What was seen of boots.
    pub recorder: Rc<Recorder>,
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
            (&Method::GET, ["api", "v1", "agent", "boots"]) => {
                let name_of = |mac| self.vitals.store.node(mac)?.known?.record.hostname;
                session_route::get_boots(&self.recorder, name_of, &target, clock::now(), &id)
            }
            (&Method::GET, ["api", "v1", "agent", "cache"]) => self.cache(&id),
            (&Method::GET, ["api", "v1", "agent", "cache", "entries"]) => {
                cache_routes::get_entries(&self.cache, &target, &id)
            }
            (&Method::PUT, ["api", "v1", "agent", "cache", _, ..]) => {
                cache_routes::put_entry(&self.cache, &target.rest(4), request, &id).await
            }
            (&Method::DELETE, ["api", "v1", "agent", "cache", _, ..]) => {
                cache_routes::delete_entry(&self.cache, &target.rest(4), &id).await
            }
            _ => not_found(&id),
        }
    }
}

impl Management {
    fn cache(&self, id: &CorrelationId) -> Response {
        match self.vitals.standing.site_config() {
            Some(site) => cache_routes::get_cache(&self.cache, &site, self.vitals.node_cache()),
            None => {
                let detail = "the site's cache policy is not known before the agent has joined";
                problem(StatusCode::SERVICE_UNAVAILABLE, "not_joined", detail, id)
            }
        }
    }
}
