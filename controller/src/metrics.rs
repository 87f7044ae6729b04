//! What a monitoring system reads: counts of what this controller has done, and what there is in its database.
//!
//! `GET /metrics` answers in OpenMetrics 1.0, which Prometheus and its relatives read. Labels are words of closed sets: the
//! patterns of routes, and never what a client sent, so that nobody can make the number of series grow.

mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use pureboot_protocol::{Outcome, Timestamp};
use tokio::sync::Mutex;

use crate::router::App;
use crate::store::{Figures, Pools};

/// The media type of what [`render`] writes.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What every name begins with that is not of a process in general.
const PREFIX: &str = "pureboot";
/// For how long what was counted in the database is told again: whoever asks more often costs it nothing.
const FIGURES_AGE_MAX: Duration = Duration::from_secs(5);
/// The route of a request that no route fits.
const NO_ROUTE: &str = "none";
/// The bounds of durations, in seconds: from an answer out of memory to the time limit of a request.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// The bounds of the number of heartbeats that are written together.
const BATCHES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// What this controller has done since its start. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    started: Timestamp,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    heartbeats: Counter,
    batches: Histogram,
    changes: Family<OutcomeLabels, Counter>,
    job_runs: Family<JobLabels, Counter>,
    job_failures: Family<JobLabels, Counter>,
    job_successes: Family<JobLabels, Gauge>,
    figures: Mutex<Option<(Instant, Figures)>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    job: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: &'static str,
    state: &'static str,
}

impl Metrics {
    /// Nothing has happened yet at `started`.
    pub(crate) fn new(started: Timestamp) -> Self {
        let changes = Family::default();
        for outcome in Outcome::ALL {
            drop(changes.get_or_create(&OutcomeLabels { outcome: outcome.as_str() }));
        }
        Self(Arc::new(Counted {
            started,
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            heartbeats: Counter::default(),
            batches: Histogram::new(BATCHES),
            changes,
            job_runs: Family::default(),
            job_failures: Family::default(),
            job_successes: Family::default(),
            figures: Mutex::default(),
        }))
    }

    /// Counts `kept` heartbeats of one transaction with `len` of them.
    pub(crate) fn heartbeats(&self, kept: usize, len: usize) {
        self.0.heartbeats.inc_by(u64::try_from(kept).unwrap_or(u64::MAX));
        self.0.batches.observe(f64::from(u32::try_from(len).unwrap_or(u32::MAX)));
    }

    /// Counts what became of a change.
    pub(crate) fn change(&self, outcome: Outcome) {
        self.0.changes.get_or_create(&OutcomeLabels { outcome: outcome.as_str() }).inc();
    }

    /// Counts that `job` was done at `now`, or could not be.
    pub(crate) fn job(&self, job: &'static str, is_done: bool, now: Timestamp) {
        let labels = JobLabels { job };
        self.0.job_runs.get_or_create(&labels).inc();
        let failures = self.0.job_failures.get_or_create(&labels);
        if is_done {
            self.0.job_successes.get_or_create(&labels).set(now.unix_ms() / 1_000);
        } else {
            failures.inc();
        }
    }

    fn request(&self, route: String, method: &Method, status: StatusCode, took: Duration) {
        let method = word(method);
        let labels = RouteLabels { route: route.clone(), method };
        self.0.durations.get_or_create(&labels).observe(took.as_secs_f64());
        let status = status.as_u16();
        self.0.requests.get_or_create(&RequestLabels { route, method, status }).inc();
    }

    fn register(&self, registry: &mut Registry) {
        let Counted {
            started,
            requests,
            durations,
            heartbeats,
            batches,
            changes,
            job_runs,
            job_failures,
            job_successes,
            figures: _,
        } = &*self.0;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", version);
        registry.register("http_requests", "Requests that were answered", requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to the head of its answer",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("heartbeats_kept", "Heartbeats that were stored", heartbeats.clone());
        registry.register(
            "heartbeat_batch_size",
            "Heartbeats that were written in one transaction",
            batches.clone(),
        );
        registry.register("changes", "Changes of sites, by what became of them", changes.clone());
        registry.register("job_runs", "Times that a job was begun here", job_runs.clone());
        registry.register("job_failures", "Times that a job failed here", job_failures.clone());
        registry.register_with_unit(
            "job_last_success_timestamp",
            "When a job was last done here, since 1970-01-01T00:00:00Z",
            Unit::Seconds,
            job_successes.clone(),
        );
        let start = Gauge::<i64>::default();
        start.set(started.unix_ms() / 1_000);
        registry.register_with_unit(
            "start_timestamp",
            "When the program started, since 1970-01-01T00:00:00Z",
            Unit::Seconds,
            start,
        );
    }
}

/// The layer that counts requests and takes their time.
pub(crate) async fn observe(
    State(metrics): State<Metrics>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let (method, start) = (request.method().clone(), Instant::now());
    let response = next.run(request).await;
    let route = path.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    metrics.request(route.to_owned(), &method, response.status(), start.elapsed());
    response
}

/// All that there is to tell, in [`MEDIA_TYPE`]. Where the database gives no answer, the rest is told.
pub(crate) async fn render(app: &App) -> String {
    let mut registry = Registry::default();
    process::register(&mut registry);
    let own = registry.sub_registry_with_prefix(PREFIX);
    app.metrics.register(own);
    register_pools(own, app.store.pools());
    let figures = figures(app).await;
    let is_up = Gauge::<i64>::default();
    is_up.set(figures.is_some().into());
    own.register("database_up", "Whether the database answers", is_up);
    if let Some(figures) = figures {
        register_figures(own, &figures);
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("a text takes what is written into it");
    text
}

/// What there is in the database, a moment ago at the most; nothing if it does not answer.
async fn figures(app: &App) -> Option<Figures> {
    let mut kept = app.metrics.0.figures.lock().await;
    if let Some((_, figures)) = kept.as_ref().filter(|(at, _)| at.elapsed() < FIGURES_AGE_MAX) {
        return Some(figures.clone());
    }
    match app.store.figures().await {
        Ok(figures) => {
            *kept = Some((Instant::now(), figures.clone()));
            Some(figures)
        }
        Err(error) => {
            tracing::warn!(error = %error, "metrics without figures of the database: {error}");
            *kept = None;
            None
        }
    }
}

fn register_pools(registry: &mut Registry, pools: Pools) {
    let connections = Family::<PoolLabels, Gauge>::default();
    for (pool, open, idle) in pools.connections {
        for (state, count) in [("idle", idle), ("used", open.saturating_sub(idle))] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            connections.get_or_create(&PoolLabels { pool, state }).set(count);
        }
    }
    registry.register("database_connections", "Connections to the database", connections);
    registry.register_with_unit(
        "database_write_wait",
        "How long a transaction waited until it could write",
        Unit::Seconds,
        pools.write_waits,
    );
}

fn register_figures(registry: &mut Registry, figures: &Figures) {
    let gauge = |count: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        gauge
    };
    let agents = Family::<StatusLabels, Gauge>::default();
    for (status, count) in &figures.agents {
        let status = status.map_or("never_seen", |status| status.as_str());
        agents.get_or_create(&StatusLabels { status }).set((*count).try_into().unwrap_or(i64::MAX));
    }
    registry.register("agents", "Agents that have joined, by status", agents);
    let nodes = Family::<StateLabels, Gauge>::default();
    for (state, count) in &figures.nodes {
        let labels = StateLabels { state: state.as_str() };
        nodes.get_or_create(&labels).set((*count).try_into().unwrap_or(i64::MAX));
    }
    registry.register("nodes", "Nodes, by state", nodes);
    registry.register("conflicts_open", "Conflicts to decide", gauge(figures.conflicts));
    registry.register("changes_parked", "Changes without effect to look at", gauge(figures.parked));
    registry.register("content_files", "Names of content", gauge(figures.content_files));
    registry.register_with_unit(
        "content_size",
        "Bytes of content that are kept, each once",
        Unit::Bytes,
        gauge(figures.content_bytes),
    );
}

/// A method as a label; all that is unusual is one.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
