//! Databases of earlier versions, writers that are stuck, and what the two databases do not have in common.

use std::time::Duration;

use pureboot_protocol::{CredentialHash, Lifecycle, NodeId, SiteId, Timestamp, WorkflowId};
use sqlx::{Connection, Executor};

use super::*;
use crate::api::tests::heartbeat;
use crate::auth::Caller;
use crate::auth::rank::Rank;
use crate::callers::Callers;
use crate::config::Database;
use crate::store::open::First;
use crate::store::testing::database;

/// The rows that a controller of the first version left behind.
const FIRST_VERSION: &str = "
    INSERT INTO operator_tokens VALUES ('abababababababababababababababababababababababababababababababab', 1000);
    INSERT INTO sites VALUES ('00000000-0000-4000-8000-000000000001', 'berlin', '', NULL, '/berlin', 0, NULL, NULL, NULL, 'full',
        'site_wins', 'mirror', '[]', NULL, 30, 'dhcp', 'manual', 60, '[]', 1000, 1000, 7);
    INSERT INTO workflows VALUES ('00000000-0000-4000-8000-000000000002', 'debian', '',
        '{\"method\": \"kernel\", \"kernel\": \"images/linux\"}', 1000, 1000, 1);
    INSERT INTO outboxes VALUES (1, '00000000-0000-4000-8000-000000000001', '01010101010101010101010101010101', 9);
    INSERT INTO nodes VALUES ('00000000-0000-4000-8000-000000000003', '02:00:00:00:00:01', NULL, NULL, 'installing',
        '00000000-0000-4000-8000-000000000002', NULL, NULL, NULL, NULL, NULL, NULL,
        '00000000-0000-4000-8000-000000000001', '[]', 1, 'no disk', 2, NULL, 5000, 1000, 6000, NULL, 4, 1, 2);
    INSERT INTO nodes VALUES ('00000000-0000-4000-8000-000000000004', '02:00:00:00:00:02', NULL, NULL, 'discovered',
        NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        '00000000-0000-4000-8000-000000000001', '[]', 0, NULL, 0, NULL, 5000, 1000, 6000, NULL, 1, 1, 0);
";

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = database(dir.path()).await;
    let mut old = First::connect(&database).await.expect("a database");
    schema::bring_up(&mut old.connection, old.kind, &[1]).await.expect("the first schema");
    old.connection.execute(FIRST_VERSION).await.expect("rows of the first version");
    old.connection.close().await.expect("closed");
    let store = Store::open(&database).await.expect("brought up");
    let id = |last: char| format!("00000000-0000-4000-8000-00000000000{last}");
    let site_id: SiteId = id('1').parse().expect("an id");
    let site = store.site(site_id).await.expect("the site");
    assert!(site.is_site && site.version == 7 && site.auto_provision.is_none());
    let workflow_id: WorkflowId = id('2').parse().expect("an id");
    assert_eq!(store.workflow(workflow_id).await.expect("the workflow").timeout_minutes, 60);
    let node_id: NodeId = id('3').parse().expect("an id");
    let node = store.node(node_id).await.expect("the node");
    assert_eq!((node.state, node.version, node.group_id), (Lifecycle::Installing, 4, None));
    assert_eq!(node.wish_version, 4, "nobody knows better when it was wished");
    assert_eq!(node.install_started_at, Some(node.state_changed_at));
    let mut reader = store.reader.acquire().await.expect("a reader");
    let unknown = nodes::count_unknown(&mut reader, site_id).await.expect("a count");
    assert_eq!(unknown, 1, "what only the site has made counts");
    let (hash, now) = (CredentialHash::from_digest([0xab; 32]), Timestamp::from_unix_ms(1_000));
    let caller = Callers::start(store.clone()).find(hash, now).await.expect("an answer");
    let Some(Caller::Operator(operator)) = caller else { panic!("the token is lost: {caller:?}") };
    assert_eq!((operator.rank, operator.scopes), (Rank::Admin, None));
    let tokens = store.tokens(None, &Paging { limit: 5, after: None }).await.expect("a list");
    assert_eq!(tokens.data.first().map(|token| token.name.as_str()), Some("operator-token"));
}

#[tokio::test]
async fn a_database_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = database(dir.path()).await;
    let store = Store::open(&database).await.expect("a database");
    store.close().await;
    let mut old = First::connect(&database).await.expect("a database");
    let mut numbers = schema::numbers();
    numbers.pop();
    let error = schema::bring_up(&mut old.connection, old.kind, &numbers).await;
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("a later version has used it"), "{error}");
}

#[tokio::test]
async fn a_writer_that_is_stuck_holds_others_up_for_a_bounded_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = database(dir.path()).await;
    let stuck = Store::open(&database).await.expect("a database");
    let other = Store::open(&database).await.expect("a database");
    let tx = stuck.write().await.expect("the lock");
    let refused =
        other.lease("job", "other", Timestamp::from_unix_ms(0), Timestamp::from_unix_ms(1));
    let refused = tokio::time::timeout(Duration::from_secs(9), refused).await.expect("an answer");
    assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
    assert!(other.ping().await.is_ok(), "whoever reads waits for nobody");
    if other.kind == Kind::Postgres {
        // The server ends a transaction in which nothing happens.
        tokio::time::sleep(Duration::from_secs(6)).await;
    } else {
        drop(tx);
    }
    let lease = other.lease("job", "other", Timestamp::from_unix_ms(0), Timestamp::from_unix_ms(1));
    assert!(lease.await.expect("the lock is free"));
}

#[tokio::test]
async fn a_text_that_one_database_does_not_take_is_the_clients_fault_and_not_a_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&database(dir.path()).await).await.expect("a database");
    let (from, until) = (Timestamp::from_unix_ms(0), Timestamp::from_unix_ms(1));
    let outcome = store.lease("a\0b", "holder", from, until).await;
    match store.kind {
        Kind::Sqlite => assert!(outcome.expect("taken")),
        Kind::Postgres => assert!(matches!(outcome, Err(StoreError::NulInText)), "{outcome:?}"),
    }
}

/// The numbers of the steps up to the one before heartbeats were kept in one place.
const BEFORE_BEATS: [i64; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

/// What a busy controller left behind then: two agents, of which the second took another's place and has not beaten yet, and an
/// outbox with a parked change.
fn busy(heartbeat: &str) -> String {
    let [berlin, oslo] = [1, 2].map(|n| format!("00000000-0000-4000-8000-00000000000{n}"));
    let site = |id: &str, name: &str| {
        format!(
            "INSERT INTO sites (id, name, description, path, depth, autonomy_level, conflict_resolution, cache_policy,
                cache_patterns, cache_retention_days, discovery_method, migration_policy, heartbeat_interval, tags, created_at,
                updated_at, version, agent_status, agent_last_seen)
             VALUES ('{id}', '{name}', '', '/{name}', 0, 'full', 'manual', 'mirror', '[]', 30, 'dhcp', 'manual', 60, '[]', 1, 1, 1,
                'online', 5000);"
        )
    };
    let agent = |site: &str, n: u8, heartbeat: &str| {
        format!(
            "INSERT INTO agents (site_id, id, credential_hash, agent_version, capabilities, heartbeat_interval, registered_at,
                heartbeat)
             VALUES ('{site}', '00000000-0000-4000-8000-0000000000a{n}', '{}', '0.1.0', '[]', 60, {n}, {heartbeat});",
            format!("{n:02x}").repeat(32)
        )
    };
    let beat = |site: &str, number: u8| {
        format!("INSERT INTO heartbeats VALUES ('{site}', {number}, {number}000, '{heartbeat}');")
    };
    [
        site(&berlin, "berlin"),
        site(&oslo, "oslo"),
        agent(&berlin, 1, &format!("'{heartbeat}'")),
        agent(&oslo, 2, "NULL"),
        beat(&berlin, 1),
        beat(&berlin, 2),
        beat(&oslo, 1),
        beat(&oslo, 2),
        format!("INSERT INTO outboxes (id, site_id, epoch, acked_through) VALUES (7, '{berlin}', '{}', 3);", "0a".repeat(16)),
        format!(
            "INSERT INTO changes (site_id, id, outbox_id, seq, outcome, reason, raw, correlation_id, received_at)
             VALUES ('{berlin}', '{}', 7, 3, 'parked', 'why not', '{{}}', 'c', 4000);",
            "0b".repeat(16)
        ),
        "INSERT INTO workflows (id, name, description, boot, created_at, updated_at, version, timeout_minutes, templates)
            VALUES ('00000000-0000-4000-8000-0000000000b1', 'debian', '', '{\"method\":\"chain\",\"target\":\"images/a\"}',
                1, 2, 7, 45, '{}');"
            .to_owned(),
        "INSERT INTO audit (entry, at, actor_kind, actor_name, action, correlation_id)
            VALUES ('e', 1, 'nobody', '', 'login', 'c');"
            .to_owned(),
    ]
    .concat()
}

/// Makes of `database` that of a busy controller of then.
pub(crate) async fn busy_database(database: &Database) {
    let mut old = First::connect(database).await.expect("a database");
    schema::bring_up(&mut old.connection, old.kind, &BEFORE_BEATS).await.expect("the old schema");
    let site: SiteId = "00000000-0000-4000-8000-000000000001".parse().expect("an id");
    let heartbeat = heartbeat(site, 1).to_string();
    old.connection.execute(sqlx::AssertSqlSafe(busy(&heartbeat))).await.expect("old rows");
    old.connection.close().await.expect("closed");
}

#[tokio::test]
async fn k7_a_busy_database_keeps_its_heartbeats_outboxes_and_audit_through_every_later_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = database(dir.path()).await;
    busy_database(&database).await;
    let mut old = First::connect(&database).await.expect("a database");
    // One step after the other, as an installation does that takes every release.
    for taken in BEFORE_BEATS.len()..=schema::numbers().len() {
        let numbers: Vec<_> = schema::numbers().into_iter().take(taken).collect();
        schema::bring_up(&mut old.connection, old.kind, &numbers).await.expect("brought up");
    }
    old.connection.close().await.expect("closed");
    let store = Store::open(&database).await.expect("opened");
    is_as_it_was(&store, 1).await;
}

/// Fails unless `store` has what the busy controller left behind, with `audited` rows in the audit.
pub(crate) async fn is_as_it_was(store: &Store, audited: usize) {
    let site = "00000000-0000-4000-8000-000000000001".parse().expect("an id");
    let latest = async |site: SiteId| {
        let standing = store.agent(site).await.expect("the agent");
        serde_json::to_value(standing).expect("JSON")["heartbeat"].clone()
    };
    assert_eq!(latest(site).await["uptime_seconds"], 60);
    let oslo = "00000000-0000-4000-8000-000000000002".parse().expect("an id");
    assert!(latest(oslo).await.is_null(), "what is kept there is its predecessor's");
    let paging = || Paging { limit: 9, after: None };
    for site in [site, oslo] {
        let kept = store.heartbeats(site, &paging()).await.expect("a list");
        assert_eq!(kept.data.len(), 2, "the history stays");
    }
    assert_eq!(store.figures().await.expect("figures").parked, 1);
    let outbox = store.traces().await.into_iter().find(|trace| trace.starts_with("outbox"));
    let outbox = outbox.expect("the outbox");
    assert!(outbox.ends_with(",3]"), "{outbox}");
    let audit = store.audit(&AuditFilter::default(), &paging()).await.expect("the audit");
    assert_eq!(audit.data.len(), audited);
    assert_eq!(store.installation().await.expect("an id").len(), 32);
    let workflow = "00000000-0000-4000-8000-0000000000b1".parse().expect("an id");
    let versions = store.workflow_versions(workflow, &paging()).await.expect("versions").data;
    let versions: Vec<_> =
        versions.iter().map(|it| (it.workflow.version, it.timeout_minutes)).collect();
    assert_eq!(versions, [(7, 45)], "what is in use is the first version that is kept");
}

#[test]
fn a_database_that_goes_away_under_a_request_is_away_and_no_fault_of_the_controller() {
    let away = sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into());
    assert!(matches!(StoreError::from(away), StoreError::Busy));
    for code in ["57P01", "57P02", "57P03"] {
        assert!(postgres::is_busy(code), "{code}");
    }
    assert!(matches!(StoreError::from(sqlx::Error::RowNotFound), StoreError::Database(_)));
}
