//! The API as its clients see it: requests through the whole router, on a database of their own.

mod agents;
mod answers;
mod audit;
pub(crate) mod authority;
mod beats;
mod boots;
mod bulk;
mod changes;
mod coding;
mod commands;
mod conflicts;
mod content;
mod custody;
mod feed;
mod groups;
mod identity;
mod installs;
mod log;
mod manifest;
mod metrics;
mod migrations;
mod model;
mod nodes;
#[cfg(feature = "compile")]
mod plugins;
mod quota;
mod races;
mod releases;
mod repeats;
mod revocation;
mod session;
mod sites;
mod strict;
mod templates;
mod tokens;
mod users;
mod wishes;
mod workflows;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use pureboot_protocol::{Heartbeat, Problem, Secret, SiteId, Timestamp, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::auth;
use crate::auth::password::{Cost, Passwords};
use crate::auth::rank::Rank;
use crate::config::Database;
use crate::content::tests::content_in;
use crate::extract::Peer;
use crate::openapi;
use crate::plugins::Workshop;
use crate::router::{App, router};
use crate::store::testing::database;
use crate::store::{NewToken, Store};
use crate::vault::{KEY_LEN, Vault};

/// The password of every account.
const PASSWORD: &str = "correct horse";
/// 2026-11-21T00:00:00Z.
const START_MS: i64 = 1_795_219_200_000;

/// The content that the workflows of these tests load; every controller has it.
const LOADED: [&str; 2] = ["images/debian/linux", "images/debian/initrd.gz"];

/// A controller without sockets, whose clock stands still until it is moved.
pub(crate) struct Centre {
    router: Router,
    pub(crate) app: App,
    time_ms: Arc<AtomicI64>,
    operator: Secret,
    database: Database,
    dir: Arc<TempDir>,
    content_dir: Arc<TempDir>,
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    /// The answer's `data`, of a success.
    fn data(&self) -> &Value {
        assert!(self.status.is_success(), "{self:?}");
        assert_eq!(self.body["success"], true, "{self:?}");
        &self.body["data"]
    }

    /// The status and code of a problem that is as it has to be.
    fn problem(&self) -> (u16, String) {
        let problem: Problem = serde_json::from_value(self.body.clone()).expect("a problem");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem.status, self.status.as_u16());
        assert!(!problem.detail.is_empty());
        // RFC 9110 §11.6.1.
        assert_eq!(self.headers.contains_key("www-authenticate"), self.status == 401);
        assert_eq!(self.headers["x-correlation-id"], problem.correlation_id.as_str());
        (problem.status, problem.code)
    }

    fn detail(&self) -> &str {
        self.body["detail"].as_str().expect("a problem has a detail")
    }
}

/// A site with its agent.
struct Joined {
    site: SiteId,
    credential: Secret,
}

impl Centre {
    pub(crate) async fn start() -> Self {
        log::init();
        let dir = tempfile::tempdir().expect("a directory");
        let database = database(dir.path()).await;
        let content_dir = tempfile::tempdir().expect("a directory");
        let dirs = [Arc::new(dir), Arc::new(content_dir)];
        let centre = Self::on(database, dirs, Arc::new(AtomicI64::new(START_MS))).await;
        for loaded in LOADED {
            let stored = centre.put_content(loaded, "what a workflow loads").await;
            assert_eq!(stored.status, StatusCode::CREATED, "{stored:?}");
        }
        centre
    }

    /// Another controller on the same database, with the same clock.
    async fn beside(&self) -> Self {
        let dirs = [Arc::clone(&self.dir), Arc::clone(&self.content_dir)];
        Self::on(self.database.clone(), dirs, Arc::clone(&self.time_ms)).await
    }

    async fn on(
        database: Database,
        [dir, content_dir]: [Arc<TempDir>; 2],
        time_ms: Arc<AtomicI64>,
    ) -> Self {
        let store = Store::open(&database).await.expect("a database");
        let clock = Arc::clone(&time_ms);
        let clock = move || Timestamp::from_unix_ms(clock.load(Ordering::SeqCst));
        let content = content_in(content_dir.path(), &store).await;
        let app = App::new(store, content, Arc::new(clock), Vault::new(&[0; KEY_LEN]));
        // What a real password costs is tested where passwords are.
        let passwords = Passwords::new(Cost { memory_kib: 8, passes: 1 });
        let app = App { passwords, workshop: Workshop::here(), ..app };
        let operator = Secret::from_random([0x0f; 32]);
        let token = NewToken {
            hash: auth::hash(&operator),
            name: "operator-token".to_owned(),
            user: None,
            role: Rank::Admin,
            scopes: None,
            expires_at: None,
        };
        app.store.create_token(token, app.now()).await.expect("added");
        let router = router(app.clone());
        Self { router, app, time_ms, operator, database, dir, content_dir }
    }

    fn pass_seconds(&self, seconds: i64) {
        self.time_ms.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (status, headers, body) = self.exchange(request).await;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        openapi::tests::check_answer(&method, &path, status, &body);
        Answer { status, headers, body }
    }

    /// Sends a request whose answer need not be JSON.
    async fn exchange(&self, mut request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
        let peer = Peer(SocketAddr::from(([192, 0, 2, 1], 40_000)));
        if request.extensions().get::<Peer>().is_none() {
            request.extensions_mut().insert(peer);
        }
        let response = self.router.clone().oneshot(request).await.expect("the router cannot fail");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (parts.status, parts.headers, body)
    }

    async fn put_content(&self, name: &str, bytes: impl Into<Bytes>) -> Answer {
        self.send(self.upload(name, bytes, &[])).await
    }

    fn upload(
        &self,
        name: &str,
        bytes: impl Into<Bytes>,
        fields: &[(&'static str, &str)],
    ) -> Request<Body> {
        let bytes = bytes.into();
        let path = format!("/api/v1/content/{name}");
        let mut request = request(Some(&self.operator), "PUT", &path, None);
        request.headers_mut().insert("content-length", bytes.len().into());
        *request.body_mut() = Body::from(bytes);
        with_fields(request, fields)
    }

    async fn call(&self, bearer: &Secret, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(request(Some(bearer), method, path, body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(&self.operator, "GET", path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(&self.operator, "POST", path, Some(body)).await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(&self.operator, "PATCH", path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.call(&self.operator, "DELETE", path, None).await
    }

    async fn make_site(&self, name: &str) -> SiteId {
        let site = self.post("/api/v1/sites", json!({"name": name})).await;
        id(site.data())
    }

    async fn make_node(&self, mac: &str, site: Option<SiteId>) -> Value {
        let body = json!({"mac_address": mac, "home_site_id": site});
        self.post("/api/v1/nodes", body).await.data().clone()
    }

    async fn make_token(&self, site: SiteId) -> String {
        let answer = self.post(&format!("/api/v1/sites/{site}/agent-token"), json!({})).await;
        answer.data()["token"].as_str().expect("a token").to_owned()
    }

    /// A site with an agent that has joined.
    async fn join(&self, name: &str) -> Joined {
        let site = self.make_site(name).await;
        let token = self.make_token(site).await;
        let seed = name.bytes().last().expect("a name");
        let credential = Secret::from_random([seed; 32]);
        let answer = self.register(registration(site, &token, Some(&credential))).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        Joined { site, credential }
    }

    /// An account with [`PASSWORD`]; answers its id.
    async fn make_user(&self, name: &str, role: &str) -> UserId {
        let body = json!({"name": name, "password": PASSWORD, "role": role});
        id(self.post("/api/v1/users", body).await.data())
    }

    /// The cookie of a new session, as `name=value`.
    async fn sign_in(&self, name: &str) -> String {
        let body = json!({"username": name, "password": PASSWORD});
        let answer = self.send(request(None, "POST", "/api/v1/session", Some(body))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        cookie_of(&answer)
    }

    /// A token that `bearer` makes for itself.
    async fn make_api_token(&self, bearer: &Secret, wish: Value) -> Secret {
        let answer = self.call(bearer, "POST", "/api/v1/tokens", Some(wish)).await;
        serde_json::from_value(answer.data()["secret"].clone()).expect("a secret")
    }

    /// A request of the page: with the session's cookie, from our own origin.
    async fn page(&self, cookie: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(page_request(cookie, method, path, body)).await
    }

    async fn register(&self, body: Value) -> Answer {
        self.send(request(None, "POST", "/api/v1/agents/register", Some(body))).await
    }
}

fn request(
    bearer: Option<&Secret>,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(bearer) = bearer {
        request = request.header("authorization", format!("Bearer {}", bearer.reveal()));
    }
    match body {
        Some(body) => {
            let request = request.header("content-type", "application/json");
            request.body(Body::from(body.to_string())).expect("a request")
        }
        None => request.body(Body::empty()).expect("a request"),
    }
}

fn page_request(cookie: &str, method: &str, path: &str, body: Option<Value>) -> Request<Body> {
    let mut request = request(None, method, path, Some(body.unwrap_or(Value::Null)));
    let headers = request.headers_mut();
    headers.insert("cookie", cookie.parse().expect("a value"));
    headers.insert("host", "boot.example.org:8000".parse().expect("a value"));
    headers.insert("origin", "http://boot.example.org:8000".parse().expect("a value"));
    request
}

/// The cookie that `answer` sets, as `name=value`.
fn cookie_of(answer: &Answer) -> String {
    let text = answer.headers["set-cookie"].to_str().expect("text");
    text.split(';').next().expect("a first part").to_owned()
}

/// Lets `request` come from another address than the usual one.
fn from(mut request: Request<Body>, address: [u8; 4]) -> Request<Body> {
    request.extensions_mut().insert(Peer(SocketAddr::from((address, 40_000))));
    request
}

/// `request` with these fields in place of its own.
fn with_fields(mut request: Request<Body>, fields: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    request
}

fn id<T: serde::de::DeserializeOwned>(resource: &Value) -> T {
    serde_json::from_value(resource["id"].clone()).expect("an id")
}

fn registration(site: SiteId, token: &str, credential: Option<&Secret>) -> Value {
    json!({
        "site_id": site,
        "token": token,
        "agent_url": "http://169.254.169.254/latest/meta-data",
        "agent_version": "0.1.0",
        "capabilities": ["tftp"],
        "credential_hash": credential.map(auth::hash),
    })
}

pub(crate) fn heartbeat(site: SiteId, config_version: u64) -> Value {
    let heartbeat = Heartbeat {
        instance: None,
        site_id: site,
        timestamp: Timestamp::from_unix_ms(START_MS),
        agent_version: "0.1.1".to_owned(),
        uptime_seconds: 60,
        services: Default::default(),
        nodes_seen_last_hour: 3,
        active_boots: 1,
        cache_hit_rate: Some(0.5),
        disk_usage_percent: 12.5,
        cache_size_bytes: 1_000,
        cache_entries: 2,
        node_cache_entries: 3,
        last_sync_at: None,
        last_sync_result: None,
        pending_sync_items: 0,
        is_online: true,
        last_online_at: None,
        offline_duration_seconds: 0,
        pending_queue_items: 0,
        failed_queue_items: 0,
        conflicts_pending: 0,
        config_version,
        command_results: Vec::new(),
        plugins: None,
        update: None,
    };
    serde_json::to_value(heartbeat).expect("a heartbeat can be written")
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let centre = Centre::start().await;
    for (method, path, expected) in [
        ("GET", "/", (404, "not_found")),
        ("GET", "/api/v1/nothing", (404, "not_found")),
        ("GET", "/api/v1/sites/../../etc/passwd", (404, "not_found")),
        ("GET", "/api/v1/nodes/..%2f..%2fadmin", (404, "not_found")),
        ("GET", "/api/v1/nodes/%00", (404, "not_found")),
        ("PUT", "/api/v1/sites", (405, "method_not_allowed")),
        ("GET", "/api/v1/nodes?limit=501", (422, "validation_failed")),
        ("GET", "/api/v1/nodes?limit=0", (422, "validation_failed")),
        ("GET", "/api/v1/nodes?cursor=x", (422, "validation_failed")),
        ("GET", "/api/v1/nodes?state=asleep", (422, "validation_failed")),
        ("GET", "/api/v1/nodes?mac=zz", (400, "invalid_mac")),
    ] {
        let answer = centre.call(&centre.operator, method, path, None).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{method} {path}");
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
    }
}

#[tokio::test]
async fn h17_a_body_that_is_too_large_too_deep_or_no_json_is_refused() {
    let centre = Centre::start().await;
    let deep = "[".repeat(100_000);
    let large = format!("{{\"name\": \"{}\"}}", "a".repeat(2 << 20));
    for (kind, body, expected) in [
        ("application/json", "{\"name\":", (400, "malformed_json")),
        ("application/json", "{\"name\": \"a\"} x", (400, "malformed_json")),
        ("application/json", "{\"name\": NaN}", (400, "malformed_json")),
        ("application/json", "{\"name\": \"\\ud800\"}", (400, "malformed_json")),
        ("application/json", "", (400, "malformed_json")),
        ("application/json", &deep, (422, "validation_failed")),
        ("application/json", &format!("{{\"tags\": {deep}"), (422, "validation_failed")),
        ("application/json", &format!("{{\"unknown\": {deep}"), (400, "malformed_json")),
        ("application/json", &large, (413, "too_large")),
        ("application/x-www-form-urlencoded", "name=a", (415, "unsupported_media_type")),
    ] {
        let mut request = request(Some(&centre.operator), "POST", "/api/v1/sites", None);
        request.headers_mut().insert("content-type", kind.parse().expect("a type"));
        *request.body_mut() = Body::from(body.to_owned());
        let (status, code) = centre.send(request).await.problem();
        assert_eq!((status, code.as_str()), expected, "{}", body.get(..20).unwrap_or(body));
    }
    assert_eq!(centre.get("/api/v1/sites").await.body["total"], 0);
}

#[tokio::test]
async fn a_sane_correlation_id_is_kept_and_another_one_is_replaced() {
    let centre = Centre::start().await;
    for (sent, is_kept) in [
        ("boot-42_a.b", true),
        (&"a".repeat(64), true),
        (&"a".repeat(65), false),
        ("a b", false),
        ("", false),
    ] {
        let mut request = request(None, "GET", "/nothing", None);
        request.headers_mut().insert("x-correlation-id", sent.parse().expect("a value"));
        let answer = centre.send(request).await;
        answer.problem();
        let kept = answer.headers["x-correlation-id"].to_str().expect("text");
        assert_eq!(kept == sent, is_kept, "{sent}");
        assert!((1..=64).contains(&kept.len()));
    }
}

#[tokio::test]
async fn health_is_answered_to_everybody() {
    let centre = Centre::start().await;
    for path in ["/healthz", "/readyz"] {
        let answer = centre.send(request(None, "GET", path, None)).await;
        assert_eq!(answer.data()["status"], "ok");
    }
    centre.app.store.close().await;
    assert_eq!(centre.send(request(None, "GET", "/healthz", None)).await.status, 200);
    let answer = centre.send(request(None, "GET", "/readyz", None)).await;
    assert_eq!(answer.problem(), (503, "database_unavailable".to_owned()));
}

#[tokio::test]
async fn a12_the_database_files_hold_no_secret() {
    let centre = Centre::start().await;
    let joined = centre.join("berlin").await;
    let token = centre.make_token(joined.site).await;
    let (_, token_secret) = token.split_once('.').expect("id.secret");
    let bytes = centre.app.store.bytes(centre.dir.path()).await;
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(&auth::hash(&joined.credential).to_string()), "the hash is there to be found");
    for secret in [centre.operator.reveal(), joined.credential.reveal(), token_secret] {
        assert!(!holds(secret));
    }
}
