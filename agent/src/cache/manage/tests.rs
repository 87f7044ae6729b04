//! The management surface over a real connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::testing::{Answer, Client, with_server};
use crate::http::{Connection, Limits, Service};

use super::*;

struct TestService(Cache);

impl Service for TestService {
    async fn handle(&self, request: Request<Incoming>, _: Connection) -> Response {
        let id = CorrelationId::of(&request);
        let target = Target::parse(request.uri()).expect("the tests ask for paths");
        let name = target.rest(1);
        match (request.method().as_str(), target.segments().as_slice()) {
            ("GET", ["cache"]) => {
                let node_cache = NodeCache { count: 3, oldest_entry: None };
                let word = Word {
                    settings_version: 3,
                    settings_heard_at: None,
                    manifest_version: Some(7),
                    manifest_coming: Some(8),
                };
                get_cache(&self.0, &site(), word, node_cache, None)
            }
            ("GET", ["cache", "entries"]) => {
                let why = |key: &ContentKey| (by_hand(key), None);
                get_entries(&self.0, why, &HashMap::new(), &target, &id)
            }
            ("PUT", _) => put_entry(&self.0, by_hand, &name, request, &id).await,
            ("POST", ["cache", "verify"]) => {
                verify_entries(&self.0, |key| key.path() == "managed", &target, &id).await
            }
            _ => delete_entry(&self.0, by_hand, requirement, &name, &id).await,
        }
    }
}

fn by_hand(_: &ContentKey) -> Kept {
    Kept::ByHand
}

fn requirement(key: &ContentKey) -> Requirement {
    match key.path() {
        "managed" => Requirement::Replaceable,
        "required" => Requirement::Irreplaceable,
        _ => Requirement::None,
    }
}

fn site() -> SiteConfig {
    serde_json::from_value(json!({
        "site_id": "00000000-0000-4000-8000-000000000001", "site_name": "berlin",
        "autonomy_level": "readonly", "cache_policy": "pattern", "cache_patterns": ["images/*"],
        "cache_max_size_gb": 1, "cache_retention_days": 30, "heartbeat_interval": 60,
    }))
    .unwrap()
}

fn check(test: impl AsyncFnOnce(SocketAddr, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    with_server(Limits::default(), TestService(cache), async |address| {
        test(address, directory.path()).await;
    });
}

async fn call(address: SocketAddr, method: &str, target: &str, fields: &str) -> Answer {
    let mut client = Client::connect(address).await;
    client.send(format!("{method} {target} HTTP/1.1\r\n{fields}\r\n")).await;
    client.receive(true).await.expect("an answer")
}

async fn put(address: SocketAddr, target: &str, body: &[u8], fields: &str) -> Answer {
    let mut client = Client::connect(address).await;
    let len = body.len();
    client.send(format!("PUT {target} HTTP/1.1\r\nContent-Length: {len}\r\n{fields}\r\n")).await;
    client.send(body).await;
    client.receive(true).await.expect("an answer")
}

fn data(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut frame: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(frame["success"], true);
    frame["data"].take()
}

fn code(answer: &Answer) -> (u16, String) {
    let problem: pureboot_protocol::Problem = serde_json::from_slice(&answer.body).unwrap();
    (answer.status, problem.code)
}

/// SHA-256 of "hello", in the two spellings.
const HELLO_HEX: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const HELLO_DIGEST: &str =
    "Content-Digest: md5=:AAAA:, sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:\r\n";

#[test]
fn an_upload_is_listed_and_removed() {
    check(async |address, _| {
        let added = data(&put(address, "/cache/images/a.img", b"hello", HELLO_DIGEST).await);
        for (field, value) in [
            ("category", json!("images")),
            ("path", json!("a.img")),
            ("size_bytes", json!(5)),
            ("sha256", json!(HELLO_HEX)),
        ] {
            assert_eq!(added[field], value, "{field}");
        }
        put(address, "/cache/bootloaders/sub/b.efi", b"loader", "").await;

        let held = data(&call(address, "GET", "/cache", "").await);
        assert_eq!(held["total_size_bytes"], 11);
        assert_eq!(held["max_size_bytes"], 1_000_000_000);
        assert_eq!(held["usage_percent"], 0.000_001_1);
        assert_eq!((&held["policy"], &held["patterns"]), (&json!("pattern"), &json!(["images/*"])));
        assert_eq!(held["categories"]["images"], json!({"count": 1, "size_bytes": 5}));
        assert_eq!(held["categories"]["scripts"], json!({"count": 0, "size_bytes": 0}));
        assert_eq!(held["settings_version"], 3);
        assert_eq!(held["manifest_coming"], 8);
        assert_eq!(held["node_cache"], json!({"count": 3, "oldest_entry": null}));

        let entries = data(&call(address, "GET", "/cache/entries?category=images", "").await);
        assert_eq!(entries[0]["path"], "a.img");
        assert_eq!(entries.as_array().map(Vec::len), Some(1));
        let removed = data(&call(address, "DELETE", "/cache/bootloaders/sub/b.efi", "").await);
        assert_eq!(removed["size_bytes"], 6);
        assert_eq!((&removed["freed_bytes"], &removed["in_manifest"]), (&json!(6), &json!(false)));
        let again = call(address, "DELETE", "/cache/bootloaders/sub/b.efi", "").await;
        assert_eq!(code(&again), (404, "content_not_found".to_owned()));
    });
}

#[test]
fn a_list_is_read_page_by_page() {
    check(async |address, _| {
        for name in ["c", "a", "b"] {
            put(address, &format!("/cache/images/{name}"), b"x", "").await;
        }
        let mut target = "/cache/entries?limit=2".to_owned();
        let mut seen = vec![];
        loop {
            let answer = call(address, "GET", &target, "").await;
            let page: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(page["total"], 3);
            let entries = page["data"].as_array().unwrap();
            seen.extend(entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            target = format!("/cache/entries?limit=2&cursor={cursor}");
        }
        assert_eq!(seen, ["a", "b", "c"]);
        let answer = call(address, "GET", "/cache/entries?category=drivers", "").await;
        assert_eq!(code(&answer), (422, "invalid_category".to_owned()));
    });
}

#[test]
fn an_upload_may_be_longer_than_any_buffer() {
    check(async |address, _| {
        let body: Vec<u8> = (0..5_000_000u32).map(|number| number.to_le_bytes()[1]).collect();
        let added = data(&put(address, "/cache/images/big", &body, "").await);
        assert_eq!(added["size_bytes"], 5_000_000);
    });
}

#[test]
fn an_upload_that_is_not_what_it_says_is_refused() {
    check(async |address, directory| {
        for (target, fields, expected) in [
            ("/cache/images/a", HELLO_DIGEST, (400, "digest_mismatch")),
            (
                "/cache/images/a",
                "Content-Digest: sha-256=:AAAA:\r\n",
                (400, "invalid_content_digest"),
            ),
            ("/cache/drivers/a", "", (400, "invalid_content_key")),
            ("/cache/images", "", (400, "invalid_content_key")),
        ] {
            let answer = put(address, target, b"hullo", fields).await;
            assert_eq!(code(&answer), (expected.0, expected.1.to_owned()), "{target} {fields}");
        }
        let answer = call(address, "PUT", "/cache/images/a", "").await;
        assert_eq!(code(&answer), (411, "length_required".to_owned()));
        assert_eq!(std::fs::read_dir(directory.join("objects")).unwrap().count(), 0);
    });
}

#[test]
fn k11_an_upload_that_breaks_off_leaves_nothing() {
    check(async |address, directory| {
        let mut client = Client::connect(address).await;
        client.send("PUT /cache/images/a HTTP/1.1\r\nContent-Length: 9\r\n\r\nhel").await;
        while std::fs::read_dir(directory.join("tmp")).unwrap().count() == 0 {
            smol::future::yield_now().await;
        }
        drop(client);
        while std::fs::read_dir(directory.join("tmp")).unwrap().count() > 0 {
            smol::future::yield_now().await;
        }
        let entries = data(&call(address, "GET", "/cache/entries", "").await);
        assert_eq!(entries, json!([]));
    });
}

#[test]
fn what_is_removed_tells_what_that_frees_and_whether_it_comes_back() {
    check(async |address, _| {
        for name in ["managed", "twin", "required"] {
            put(address, &format!("/cache/images/{name}"), b"hello", "").await;
        }
        let refused = call(address, "DELETE", "/cache/images/required", "").await;
        assert_eq!(code(&refused), (409, "content_required".to_owned()));
        let removed = data(&call(address, "DELETE", "/cache/images/managed", "").await);
        assert_eq!((&removed["freed_bytes"], &removed["in_manifest"]), (&json!(0), &json!(true)));
    });
}

#[test]
fn d7_what_is_damaged_is_told_and_with_it_what_is_fetched_again() {
    check(async |address, directory| {
        put(address, "/cache/images/managed", b"hello", "").await;
        put(address, "/cache/images/mine", b"hello", "").await;
        put(address, "/cache/images/sound", b"other", "").await;
        let object = directory.join("objects").join(&HELLO_HEX[..2]).join(HELLO_HEX);
        std::fs::write(object, b"hullo").unwrap();
        let verified = data(&call(address, "POST", "/cache/verify", "").await);
        let expected = json!({
            "sound_count": 1,
            "damaged": ["images/managed", "images/mine"],
            "coming": ["images/managed"],
        });
        assert_eq!(verified, expected);
    });
}
