//! Every route of the API, and who may call it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::TRANSFER_ENCODING;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use pureboot_protocol::Timestamp;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::api::{
    agents, answers, audit, boots, bulk, changes, commands, conflicts, content, custody, groups,
    health, manifest, meta, migrations, nodes, plugins, releases, secrets, session, sites,
    templates, tokens, users, workflows,
};
use crate::audit::Refusals;
use crate::auth::Role;
use crate::auth::password::{Cost, Passwords};
use crate::beats::{Beats, Keeping};
use crate::callers::Callers;
use crate::coding;
use crate::config::KeptDays;
use crate::content::Content;
use crate::cookie::Cookie;
use crate::correlation;
use crate::error::ApiError;
use crate::forwarded::{self, Proxies};
use crate::guard::{Post, guard};
use crate::limit::{LimitConfig, Limits};
use crate::metrics::{self, Metrics};
use crate::once::{Place, once};
use crate::openapi;
use crate::plugins::{COMPONENT_LEN_MAX, Workshop};
use crate::store::Store;
use crate::strict::{is_strict, strict};
use crate::vault::Vault;

/// The largest body of a request, in bytes, where a route does not say less.
pub(crate) const BODY_LEN_MAX: usize = 1 << 20;
/// The largest report of boot sessions, in bytes.
const BOOTS_LEN_MAX: usize = 512 << 10;
/// The largest heartbeat, in bytes: it is kept, many times.
const HEARTBEAT_LEN_MAX: usize = 64 << 10;
/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What handlers work with. Clones share it.
#[derive(Clone)]
pub(crate) struct App {
    /// The database.
    pub(crate) store: Store,
    /// The heartbeats on their way there.
    pub(crate) beats: Beats,
    /// Who has which credential.
    pub(crate) callers: Callers,
    /// The bytes of content.
    pub(crate) content: Content,
    /// The time of day.
    pub(crate) clock: Clock,
    /// Who has done how much lately.
    pub(crate) limits: Arc<Limits>,
    /// Hashes passwords.
    pub(crate) passwords: Passwords,
    /// What the cookie of a session looks like.
    pub(crate) cookie: Cookie,
    /// Credentials that nobody has, counted for the audit.
    pub(crate) refusals: Arc<Mutex<Refusals>>,
    /// How long what explains the past is kept.
    pub(crate) kept_days: KeptDays,
    /// Seals the secrets of templates.
    pub(crate) vault: Arc<Vault>,
    /// Compiles policies.
    pub(crate) workshop: Workshop,
    /// Who is believed about where a request comes from.
    pub(crate) proxies: Proxies,
    /// What has been done, for those who watch over the controller.
    pub(crate) metrics: Metrics,
}

/// Tells the time of day.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

impl App {
    /// Everything that is not in the database begins empty. It needs a runtime, for what is done together.
    pub(crate) fn new(store: Store, content: Content, clock: Clock, vault: Vault) -> Self {
        let metrics = Metrics::new(clock());
        Self {
            beats: Beats::start(Keeping::new(store.clone(), metrics.clone())),
            callers: Callers::start(store.clone()),
            store,
            content,
            clock,
            limits: Arc::new(Limits::new(LimitConfig::default())),
            passwords: Passwords::new(Cost::OWASP),
            cookie: Cookie::Plain,
            refusals: Arc::default(),
            kept_days: KeptDays::default(),
            vault: Arc::new(vault),
            workshop: Workshop::new(COMPONENT_LEN_MAX),
            proxies: Proxies::default(),
            metrics,
        }
    }

    /// With other limits than the usual.
    pub(crate) fn limited(self, config: LimitConfig) -> Self {
        Self { limits: Arc::new(Limits::new(config)), ..self }
    }

    /// With a cookie for HTTPS, or for HTTP.
    pub(crate) fn with_cookie(self, cookie: Cookie) -> Self {
        Self { cookie, ..self }
    }

    /// Now.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// One path with its verbs and their handlers.
pub(crate) struct Route {
    /// Who may call it.
    pub(crate) role: Role,
    /// Parameters are in braces.
    pub(crate) path: &'static str,
    /// By verb.
    pub(crate) handlers: MethodRouter<App>,
    pub(crate) body: Length,
}

/// How large a request may be and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// [`BODY_LEN_MAX`] and [`REQUEST_TIMEOUT`].
    Bounded,
    /// As the handler says, which bounds size and silence itself.
    Streamed,
}

/// The whole API.
pub(crate) fn table() -> Vec<Route> {
    use Role::{Admin, Agent, Anyone, Operator, Viewer};
    let route = |role, path, handlers| Route { role, path, handlers, body: Length::Bounded };
    let streamed = |role, path, handlers| Route { role, path, handlers, body: Length::Streamed };
    // Refuses by Content-Length before a byte is read, and by count where there is none.
    let limit = RequestBodyLimitLayer::new;
    vec![
        route(Anyone, "/healthz", get(health::alive)),
        route(Anyone, "/readyz", get(health::ready)),
        route(Viewer, "/metrics", get(health::metrics)),
        route(Anyone, "/api/v1/openapi.json", get(openapi::read)),
        route(Anyone, "/api/v1/docs", get(openapi::page)),
        route(Anyone, "/api/v1/session", post(session::begin)),
        route(Viewer, "/api/v1/session", get(session::read).delete(session::end)),
        route(Viewer, "/api/v1/session/password", post(session::change_password)),
        route(Viewer, "/api/v1/tokens", get(tokens::list).post(tokens::create)),
        route(Viewer, "/api/v1/tokens/{id}", delete(tokens::revoke)),
        route(Admin, "/api/v1/users", get(users::list).post(users::create)),
        route(
            Admin,
            "/api/v1/users/{id}",
            get(users::read).patch(users::update).delete(users::delete),
        ),
        route(Admin, "/api/v1/users/{id}/password", post(users::reset_password)),
        route(Admin, "/api/v1/audit", get(audit::list)),
        route(Operator, "/api/v1/sites", get(sites::list).post(sites::create)),
        route(
            Operator,
            "/api/v1/sites/{id}",
            get(sites::read).patch(sites::update).delete(sites::delete),
        ),
        route(Admin, "/api/v1/sites/{id}/agent-token", post(sites::make_token)),
        route(Operator, "/api/v1/sites/{id}/nodes", get(sites::nodes)),
        route(Operator, "/api/v1/sites/{id}/health", get(sites::health)),
        route(Operator, "/api/v1/sites/{id}/boots", get(boots::of_site)),
        route(Operator, "/api/v1/sites/{id}/sync", post(commands::sync)),
        route(Operator, "/api/v1/sites/{id}/commands", get(commands::list).post(commands::create)),
        route(
            Operator,
            "/api/v1/sites/{id}/commands/{command_id}",
            get(commands::read).delete(commands::cancel),
        ),
        route(Operator, "/api/v1/sites/{id}/conflicts", get(conflicts::of_site)),
        route(
            Operator,
            "/api/v1/sites/{id}/conflicts/{conflict}/resolve",
            post(conflicts::resolve_of_site),
        ),
        route(Operator, "/api/v1/sites/{id}/conflicts/resolve-all", post(conflicts::resolve_all)),
        route(Operator, "/api/v1/sites/{id}/parked", get(custody::parked)),
        route(
            Operator,
            "/api/v1/sites/{id}/assigned-content",
            get(manifest::assigned).put(manifest::assign),
        ),
        route(Operator, "/api/v1/sync/conflicts", get(conflicts::all)),
        route(Operator, "/api/v1/sync/conflicts/{id}", get(conflicts::read)),
        route(Operator, "/api/v1/sync/conflicts/{id}/resolve", post(conflicts::resolve)),
        route(Operator, "/api/v1/migrations", get(migrations::list)),
        route(Operator, "/api/v1/migrations/{id}", get(migrations::read)),
        route(Operator, "/api/v1/migrations/{id}/approve", post(migrations::approve)),
        route(Operator, "/api/v1/migrations/{id}/reject", post(migrations::reject)),
        route(Operator, "/api/v1/groups", get(groups::list).post(groups::create)),
        route(
            Operator,
            "/api/v1/groups/{id}",
            get(groups::read).patch(groups::update).delete(groups::delete),
        ),
        route(Operator, "/api/v1/groups/{id}/ancestors", get(groups::ancestors)),
        route(Operator, "/api/v1/groups/{id}/descendants", get(groups::descendants)),
        route(Operator, "/api/v1/groups/{id}/nodes", get(groups::nodes)),
        route(Operator, "/api/v1/nodes", get(nodes::list).post(nodes::create)),
        route(Operator, "/api/v1/nodes/stats", get(nodes::stats)),
        route(Operator, "/api/v1/nodes/stalled", get(nodes::stalled)),
        route(Operator, "/api/v1/nodes/bulk/assign-group", post(bulk::assign_group)),
        route(Operator, "/api/v1/nodes/bulk/assign-workflow", post(bulk::assign_workflow)),
        route(Operator, "/api/v1/nodes/bulk/add-tag", post(bulk::add_tag)),
        route(Operator, "/api/v1/nodes/bulk/remove-tag", post(bulk::remove_tag)),
        route(Operator, "/api/v1/nodes/bulk/change-state", post(bulk::change_state)),
        route(
            Operator,
            "/api/v1/nodes/{id}",
            get(nodes::read).patch(nodes::update).delete(nodes::retire),
        ),
        route(Operator, "/api/v1/nodes/{id}/state", patch(nodes::order)),
        route(
            Operator,
            "/api/v1/nodes/{id}/command",
            post(commands::order_node).delete(commands::take_back),
        ),
        route(Operator, "/api/v1/nodes/{id}/tags", post(nodes::add_tag)),
        route(Operator, "/api/v1/nodes/{id}/tags/{tag}", delete(nodes::remove_tag)),
        route(Operator, "/api/v1/nodes/{id}/history", get(nodes::history)),
        route(Operator, "/api/v1/nodes/{id}/events", get(nodes::events)),
        route(Operator, "/api/v1/nodes/{id}/boots", get(boots::of_node)),
        route(Operator, "/api/v1/workflows", get(workflows::list).post(workflows::create)),
        route(
            Operator,
            "/api/v1/workflows/{id}",
            get(workflows::read).patch(workflows::update).delete(workflows::delete),
        ),
        route(Operator, "/api/v1/workflows/{id}/versions", get(workflows::versions)),
        route(Operator, "/api/v1/workflows/{id}/versions/{version}", get(workflows::version)),
        route(
            Operator,
            "/api/v1/workflows/{id}/versions/{version}/restore",
            post(workflows::restore),
        ),
        route(Operator, "/api/v1/content", get(content::list)),
        route(Operator, "/api/v1/content/manifest", get(manifest::of_site)),
        streamed(
            Operator,
            "/api/v1/content/{category}/{*path}",
            get(content::get).put(content::put).delete(content::delete),
        ),
        route(Operator, "/api/v1/templates", get(templates::list).post(templates::create)),
        route(Operator, "/api/v1/templates/check", post(templates::check)),
        route(
            Operator,
            "/api/v1/templates/{id}",
            get(templates::read).patch(templates::update).delete(templates::delete),
        ),
        route(Operator, "/api/v1/templates/{id}/preview", post(templates::preview)),
        route(Operator, "/api/v1/templates/{id}/versions", get(templates::versions)),
        route(Operator, "/api/v1/templates/{id}/versions/{version}", get(templates::version)),
        route(
            Operator,
            "/api/v1/templates/{id}/versions/{version}/restore",
            post(templates::restore),
        ),
        streamed(Operator, "/api/v1/plugins", get(plugins::list).post(plugins::upload)),
        route(Operator, "/api/v1/plugins/{name}", get(plugins::read).delete(plugins::delete)),
        route(Operator, "/api/v1/plugins/{name}/versions", get(plugins::versions)),
        route(
            Operator,
            "/api/v1/plugins/{name}/versions/{version}",
            get(plugins::read_version).delete(plugins::delete_version),
        ),
        route(Operator, "/api/v1/plugins/{name}/rollback", post(plugins::roll_back)),
        route(Operator, "/api/v1/plugins/{name}/assignments", get(plugins::assignments)),
        route(
            Operator,
            "/api/v1/plugins/{name}/assignments/{place}",
            put(plugins::assign).delete(plugins::unassign),
        ),
        route(Operator, "/api/v1/plugins/{name}/sites", get(plugins::sites)),
        route(Operator, "/api/v1/sites/{id}/plugins", get(plugins::of_site)),
        route(Operator, "/api/v1/nodes/{id}/meta", get(meta::read_node).patch(meta::update_node)),
        route(
            Operator,
            "/api/v1/groups/{id}/meta",
            get(meta::read_group).patch(meta::update_group),
        ),
        route(Operator, "/api/v1/sites/{id}/meta", get(meta::read_site).patch(meta::update_site)),
        route(Operator, "/api/v1/secrets", get(secrets::list)),
        route(Operator, "/api/v1/secrets/{name}", put(secrets::put).delete(secrets::delete)),
        route(Operator, "/api/v1/agents", get(agents::list)),
        route(Operator, "/api/v1/agents/releases", get(releases::list)),
        streamed(Admin, "/api/v1/agents/releases", post(releases::upload)),
        route(Admin, "/api/v1/agents/releases/{version}/{target}", delete(releases::delete)),
        route(Operator, "/api/v1/sites/{id}/agent-update", post(releases::order)),
        route(Operator, "/api/v1/agents/{site_id}/status", get(agents::status)),
        route(Operator, "/api/v1/agents/{site_id}/heartbeats", get(agents::heartbeats)),
        route(Operator, "/api/v1/agents/{site_id}/revoke", post(agents::revoke)),
        route(Anyone, "/api/v1/agents/register", post(agents::register)),
        route(Agent, "/api/v1/agents/credential", post(agents::announce_credential)),
        route(
            Agent,
            "/api/v1/agents/heartbeat",
            post(agents::heartbeat).layer(limit(HEARTBEAT_LEN_MAX)),
        ),
        route(Agent, "/api/v1/agents/nodes", get(agents::nodes)),
        route(Agent, "/api/v1/agents/conflicts", get(conflicts::of_agent)),
        route(Agent, "/api/v1/agents/conflicts/{id}", get(conflicts::read_of_agent)),
        route(Agent, "/api/v1/agents/conflicts/{id}/resolve", post(conflicts::resolve_of_agent)),
        route(Agent, "/api/v1/agents/answers", post(answers::sheet)),
        route(Agent, "/api/v1/agents/manifest", get(manifest::own)),
        streamed(Agent, "/api/v1/agents/content/{category}/{*path}", get(content::get)),
        streamed(Agent, "/api/v1/agents/objects/{sha256}", get(content::object)),
        route(Agent, "/api/v1/agents/objects/{sha256}/chunks", get(content::chunks)),
        route(Agent, "/api/v1/agents/boots", post(boots::take).layer(limit(BOOTS_LEN_MAX))),
        route(Agent, "/api/v1/agents/changes", post(changes::take)),
    ]
}

/// The service that answers requests. It expects a [`crate::extract::Peer`] in each.
pub(crate) fn router(app: App) -> Router {
    assemble(app, table())
}

/// The service with the routes of `table`, each behind its guard.
pub(crate) fn assemble(app: App, table: Vec<Route>) -> Router {
    let (mut bounded, mut streamed) = (Router::new(), Router::new());
    for Route { role, path, handlers, body } in table {
        let post = Post { app: app.clone(), role, path };
        let guard = middleware::from_fn_with_state(post, guard);
        let handlers = match role {
            Role::Viewer | Role::Operator | Role::Admin if body == Length::Bounded => {
                let place = Place { app: app.clone(), path };
                handlers.route_layer(middleware::from_fn_with_state(place, once))
            }
            _ => handlers,
        };
        let (router, handlers) = match body {
            Length::Bounded => (&mut bounded, coded(role, handlers)),
            Length::Streamed => (&mut streamed, handlers),
        };
        let handlers = match is_strict(role, path) {
            true => handlers.route_layer(middleware::from_fn_with_state(path, strict)),
            false => handlers,
        };
        *router = std::mem::take(router).route(path, handlers.route_layer(guard));
    }
    bounded
        .layer(RequestBodyLimitLayer::new(BODY_LEN_MAX))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT))
        .merge(streamed)
        .layer(middleware::from_fn(one_length))
        .layer(middleware::from_fn_with_state(app.proxies.clone(), forwarded::look_through))
        .layer(middleware::from_fn_with_state(app.metrics.clone(), metrics::observe))
        .layer(middleware::from_fn(correlation::correlate))
        .with_state(app)
}

/// What those may read who watch over the controller from an address that only they can reach: nobody is asked who they are.
pub(crate) fn watch(app: App) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .layer(RequestBodyLimitLayer::new(0))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT))
        .layer(middleware::from_fn(correlation::correlate))
        .with_state(app)
}

/// `handlers` that take gzip, and give it to people and their programs; agents ask for none, and get none.
fn coded(role: Role, handlers: MethodRouter<App>) -> MethodRouter<App> {
    let handlers = handlers.layer(middleware::from_fn(coding::inflate));
    match role {
        Role::Agent => handlers,
        Role::Anyone | Role::Viewer | Role::Operator | Role::Admin => {
            handlers.layer(coding::compression()).layer(middleware::from_fn(coding::only_reads))
        }
    }
}

/// Refuses a request whose length two readers could take differently (FAULTS H5). hyper lets `Transfer-Encoding` win over
/// `Content-Length` and hides the latter, so the former alone is reason enough; no client of this API needs it.
async fn one_length(request: Request, next: Next) -> Result<Response, ApiError> {
    if request.headers().contains_key(TRANSFER_ENCODING) {
        let detail = "a request must say its length in Content-Length, not by Transfer-Encoding";
        return Err(ApiError::bad_request("malformed_request", detail));
    }
    Ok(next.run(request).await)
}
