//! Two controllers on one database.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::content::tests::content_in;
use crate::store::testing::database;
use crate::vault::{KEY_LEN, Vault};

#[tokio::test]
async fn a_job_is_done_by_one_controller_until_it_ends_or_its_lease_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = database(dir.path()).await;
    let time_ms = Arc::new(AtomicI64::new(1_000_000));
    let mut workers = Vec::new();
    for holder in ["a", "b"] {
        let clock = Arc::clone(&time_ms);
        let clock = move || Timestamp::from_unix_ms(clock.load(Ordering::SeqCst));
        let store = Store::open(&database).await.expect("a database");
        let content = content_in(dir.path(), &store).await;
        let app = App::new(store, content, Arc::new(clock), Vault::new(&[0; KEY_LEN]));
        workers.push(Worker::new(Job::AgentStatus, app, holder.to_owned()));
    }
    let [a, b] = &mut workers[..] else { panic!("two workers") };
    let period_ms = i64::try_from(Job::AgentStatus.period().as_millis()).expect("a short time");
    for _ in 0..5 {
        a.turn().await.expect("done");
        b.turn().await.expect("done");
        assert_eq!((a.has_lease, b.has_lease), (true, false));
        time_ms.fetch_add(period_ms, Ordering::SeqCst);
    }
    // The first one falls silent, as if it were killed.
    for has_lease in [false, true] {
        time_ms.fetch_add(period_ms, Ordering::SeqCst);
        b.turn().await.expect("done");
        assert_eq!(b.has_lease, has_lease);
    }
    a.turn().await.expect("done");
    assert!(!a.has_lease, "it notices that it has been replaced");
    b.app.store.give_back_leases("b").await.expect("given back");
    a.turn().await.expect("done");
    assert!(a.has_lease, "nobody waits for one that has ended");
}

#[test]
fn every_job_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Job::ALL.iter().map(|job| job.as_str()).collect();
    assert_eq!(names.len(), Job::ALL.len());
}
