//! Uploads, downloads and deletions, and what is left of those that go wrong.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use futures_util::stream;
use pureboot_protocol::{Chunks, ContentHash};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::nodes::workflow;
use super::{Answer, Centre, LOADED, request, with_fields};
use crate::content::{emit_digest, tag};
use crate::jobs::content_sweep::sweep;

const NAME: &str = "images/alpine/vmlinuz";
const PATH: &str = "/api/v1/content/images/alpine/vmlinuz";

fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed * 2 + 1;
    let words = std::iter::from_fn(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_le_bytes())
    });
    words.flatten().take(len).collect()
}

fn hash(bytes: &[u8]) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(bytes).into())
}

impl Centre {
    /// Every file that holds content or is about to.
    fn files(&self) -> Vec<PathBuf> {
        fn below(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type().expect("a type").is_dir() {
                    true => below(&entry.path(), found),
                    false => found.push(entry.path()),
                }
            }
        }
        let mut found = Vec::new();
        below(&self.content_dir.path().join("content/objects"), &mut found);
        found
    }

    async fn fetch(&self, path: &str, fields: &[(&'static str, &str)]) -> (u16, HeaderMap, Bytes) {
        let request = with_fields(request(Some(&self.operator), "GET", path, None), fields);
        let (status, headers, body) = self.exchange(request).await;
        (status.as_u16(), headers, body)
    }

    /// Uploads chunks that come one by one, of which `length` was promised.
    async fn drip(&self, chunks: Vec<io::Result<Bytes>>, length: usize) -> Answer {
        let length = length.to_string();
        let mut request = self.upload(NAME, "", &[("content-length", &length)]);
        *request.body_mut() = Body::from_stream(stream::iter(chunks));
        self.send(request).await
    }
}

#[tokio::test]
async fn what_is_uploaded_is_what_is_downloaded_with_its_length_and_its_hash() {
    let centre = Centre::start().await;
    for (len, seed) in [(0, 1), (1, 2), (5 << 20, 3)] {
        let bytes = noise(len, seed);
        let stored = centre.put_content(NAME, bytes.clone()).await;
        let digest = emit_digest(&hash(&bytes));
        assert_eq!(stored.data()["sha256"], hash(&bytes).to_string());
        assert_eq!(
            (&stored.data()["size_bytes"], &stored.data()["version"]),
            (&json!(len), &json!(seed))
        );
        let (status, headers, body) = centre.fetch(PATH, &[]).await;
        assert_eq!((status, body), (200, bytes.clone()));
        assert_eq!(headers["content-length"], len.to_string());
        assert_eq!(headers["etag"], tag(&hash(&bytes)));
        assert_eq!(headers["etag"], stored.headers["etag"]);
        assert_eq!(
            (&headers["content-digest"], &headers["repr-digest"]),
            (&digest.parse().expect("text"), &digest.parse().expect("text"))
        );
        assert_eq!(headers["accept-ranges"], "bytes");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let head = request(Some(&centre.operator), "HEAD", PATH, None);
        let (status, head, body) = centre.exchange(head).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        for field in ["content-length", "etag", "content-digest"] {
            assert_eq!(head[field], headers[field], "{field}");
        }
    }
}

#[tokio::test]
async fn a_name_is_made_once_replaced_and_left_alone_when_the_same_bytes_come_again() {
    let centre = Centre::start().await;
    for (bytes, status, version) in
        [("a", 201, 1), ("a", 200, 1), ("b", 200, 2), ("b", 200, 2), ("a", 200, 3)]
    {
        centre.pass_seconds(10);
        let before = centre.get("/api/v1/content?prefix=alpine").await.body["data"][0].clone();
        let stored = centre.put_content(NAME, bytes).await;
        assert_eq!((stored.status.as_u16(), &stored.data()["version"]), (status, &json!(version)));
        assert_eq!(
            before["updated_at"] == stored.data()["updated_at"],
            before["sha256"] == stored.data()["sha256"]
        );
    }
    let files = centre.files().len();
    centre.put_content("images/other", "a").await.data();
    assert_eq!(centre.files().len(), files, "two names share bytes");
}

#[tokio::test]
async fn content_is_listed_by_category_and_prefix_in_parts() {
    let centre = Centre::start().await;
    for name in ["bootloaders/ipxe.efi", "images/debian.v2/linux", "scripts/debian/post.sh"] {
        centre.put_content(name, "x").await.data();
    }
    for (query, expected) in [
        (
            "",
            &["ipxe.efi", "debian.v2/linux", "debian/initrd.gz", "debian/linux", "debian/post.sh"]
                [..],
        ),
        ("category=images", &["debian.v2/linux", "debian/initrd.gz", "debian/linux"]),
        ("prefix=debian/", &["debian/initrd.gz", "debian/linux", "debian/post.sh"]),
        ("category=images&prefix=debian/", &["debian/initrd.gz", "debian/linux"]),
        ("prefix=%25", &[]),
    ] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = centre.get(&format!("/api/v1/content?limit=2&{query}{cursor}")).await;
            assert_eq!(page.body["total"], expected.len(), "{query}");
            let rows = page.data().as_array().expect("a list").clone();
            seen.extend(rows.iter().map(|row| row["path"].as_str().expect("a path").to_owned()));
            let Some(next) = page.body["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, expected, "{query}");
    }
    let unknown = centre.get("/api/v1/content?category=music").await;
    assert_eq!(unknown.problem(), (422, "validation_failed".to_owned()));
}

#[tokio::test]
async fn h10_a_part_is_served_if_the_bytes_are_still_the_same() {
    let centre = Centre::start().await;
    let bytes = noise(100, 4);
    centre.put_content(NAME, bytes.clone()).await.data();
    let (same, other) = (tag(&hash(&bytes)), tag(&hash(b"other")));
    let last = "bytes=0-18446744073709551616";
    for (fields, status, expected) in [
        (&[("range", "bytes=10-19")][..], 206, 10..20),
        (&[("range", "bytes=90-"), ("if-range", &same)], 206, 90..100),
        (&[("range", "bytes=90-"), ("if-range", &other)], 200, 0..100),
        (&[("range", "bytes=90-"), ("if-range", "Sat, 21 Nov 2026 00:00:00 GMT")], 200, 0..100),
        (&[("range", last)], 206, 0..100),
        (&[("range", "bytes=0-1,4-5")], 200, 0..100),
        (&[("range", "bytes=5-2")], 200, 0..100),
        (&[("if-none-match", &other)], 200, 0..100),
    ] {
        let (got, headers, body) = centre.fetch(PATH, fields).await;
        assert_eq!((got, body), (status, bytes.slice(expected.clone())), "{fields:?}");
        assert_eq!(headers["content-length"], expected.len().to_string());
        assert_eq!(
            headers.contains_key("content-digest"),
            status == 200,
            "it is that of the whole"
        );
        if status == 206 {
            let place = format!("bytes {}-{}/100", expected.start, expected.end - 1);
            assert_eq!(headers["content-range"], place);
        }
    }
    let (status, headers, body) = centre.fetch(PATH, &[("if-none-match", &same)]).await;
    assert_eq!((status, body.len(), &headers["etag"]), (304, 0, &same.parse().expect("a tag")));
    for range in ["bytes=100-", "bytes=-0", "bytes=18446744073709551616-"] {
        let request = request(Some(&centre.operator), "GET", PATH, None);
        let answer = centre.send(with_fields(request, &[("range", range)])).await;
        assert_eq!(answer.problem(), (416, "range_not_satisfiable".to_owned()), "{range}");
        assert_eq!(answer.headers["content-range"], "bytes */100");
    }
}

#[tokio::test]
async fn c11_an_upload_that_is_not_what_it_says_leaves_what_was_there() {
    let centre = Centre::start().await;
    centre.put_content(NAME, "old").await.data();
    let files = centre.files();
    let large = noise(3 << 20, 5);
    let cut = || Err(io::Error::other("the line is cut"));
    for (chunks, length, expected) in [
        (vec![Ok(Bytes::from("half"))], 8, (400, "body_incomplete")),
        (vec![Ok(large.clone()), cut()], 4 << 20, (400, "body_incomplete")),
        (vec![cut()], 1, (400, "body_incomplete")),
        (vec![Ok(large.clone()), Ok(large.clone())], large.len(), (400, "body_incomplete")),
        (vec![Ok(large.clone())], 33 << 20, (413, "too_large")),
    ] {
        let answer = centre.drip(chunks, length).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected);
    }
    let wrong = emit_digest(&hash(b"another"));
    for (fields, expected) in [
        (&[("content-digest", wrong.as_str())][..], (422, "digest_mismatch")),
        (&[("content-digest", "sha-256=:AAAA:")], (400, "malformed_digest")),
        (&[("content-encoding", "gzip")], (415, "unsupported_media_type")),
        (&[("content-length", "x")], (411, "length_required")),
        (&[("content-length", "18446744073709551615")], (413, "too_large")),
        (&[("if-none-match", "*")], (412, "precondition_failed")),
        (&[("if-match", "\"00\"")], (412, "precondition_failed")),
    ] {
        let answer = centre.send(centre.upload(NAME, large.clone(), fields)).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{fields:?}");
    }
    assert_eq!(centre.files(), files, "nothing is left of them");
    assert_eq!(centre.fetch(PATH, &[]).await.2, "old");
    let right = emit_digest(&hash(&large));
    let this = tag(&hash(b"old"));
    let fields = [("content-digest", right.as_str()), ("if-match", &this)];
    centre.send(centre.upload(NAME, large.clone(), &fields)).await.data();
    assert_eq!(centre.fetch(PATH, &[]).await.2, large);
}

#[tokio::test]
async fn no_more_uploads_are_under_way_than_may_be() {
    let centre = Centre::start().await;
    let places = centre.app.content.uploads.clone().acquire_many_owned(8).await.expect("all");
    let refused = centre.put_content(NAME, "x").await;
    assert_eq!(refused.problem(), (503, "busy".to_owned()));
    assert!(refused.headers.contains_key("retry-after"));
    drop(places);
    centre.put_content(NAME, "x").await.data();
}

#[tokio::test]
async fn k15_of_uploads_at_once_the_last_to_end_stays_and_stays_whole() {
    let centre = Centre::start().await;
    let all: Vec<Bytes> = (1..=8).map(|seed| noise(1_500_000, seed)).collect();
    let uploads = all.iter().map(|bytes| centre.put_content(NAME, bytes.clone()));
    for stored in futures_util::future::join_all(uploads).await {
        stored.data();
    }
    let (_, headers, body) = centre.fetch(PATH, &[]).await;
    assert!(all.contains(&body));
    assert_eq!(headers["etag"], tag(&hash(&body)));
    let entry = centre.get("/api/v1/content?prefix=alpine").await.data()[0].clone();
    assert_eq!((&entry["version"], &entry["sha256"]), (&json!(8), &json!(hash(&body).to_string())));
}

#[tokio::test]
async fn h14_what_climbs_hides_or_is_no_category_is_no_name() {
    let centre = Centre::start().await;
    for name in [
        "images/../../etc/passwd",
        "images/%2e%2e/x",
        "images/..%2f..%2fx",
        "images/a%00b",
        "images//a",
        "images/a/",
        "images/a%20b",
        "images/;a",
        "music/a",
    ] {
        let refused = centre.put_content(name, "x").await;
        assert_eq!(refused.problem(), (400, "invalid_content_name".to_owned()), "{name}");
        assert!(refused.detail().contains("expected category/path"), "{refused:?}");
        let missing = centre.get(&format!("/api/v1/content/{name}")).await;
        assert_eq!(missing.problem(), (404, "not_found".to_owned()), "{name}");
    }
    let at_root = centre.get("/api/v1/content/images").await;
    assert_eq!(at_root.problem(), (404, "not_found".to_owned()));
    assert_eq!(centre.files().len(), 1, "what the workflows load");
}

#[tokio::test]
async fn content_that_a_workflow_loads_stays_and_a_workflow_loads_what_is_there() {
    let centre = Centre::start().await;
    let flow = centre.post("/api/v1/workflows", workflow("debian")).await.data().clone();
    let flow = format!("/api/v1/workflows/{}", flow["id"].as_str().expect("an id"));
    let kernel = format!("/api/v1/content/{}", LOADED[0]);
    let used = centre.delete(&kernel).await;
    assert_eq!(used.problem(), (409, "content_in_use".to_owned()));
    assert!(used.detail().contains("'debian'"), "{used:?}");

    let patch = json!({"kernel": "images/new/linux", "initrd": [LOADED[1], "images/new/initrd"]});
    let missing = centre.patch(&flow, patch.clone()).await;
    assert_eq!(missing.problem(), (422, "validation_failed".to_owned()));
    let fields: Vec<_> =
        missing.body["errors"].as_array().expect("a list").iter().map(|e| &e["field"]).collect();
    assert_eq!(fields, ["kernel", "initrd[1]"]);
    centre.patch(&format!("{flow}?allow_missing=true"), patch).await.data();
    centre.patch(&flow, json!({"name": "other"})).await.data();
    let mut new = workflow("new");
    new["kernel"] = json!("images/new/linux");
    assert_eq!(centre.post("/api/v1/workflows", new.clone()).await.status, 422);
    centre.post("/api/v1/workflows?allow_missing=true", new).await.data();

    let stale = with_fields(
        request(Some(&centre.operator), "DELETE", &kernel, None),
        &[("if-match", "\"00\"")],
    );
    assert_eq!(centre.send(stale).await.problem(), (412, "precondition_failed".to_owned()));
    assert_eq!(centre.delete(&kernel).await.data()["path"], "debian/linux");
    assert_eq!(centre.delete(&kernel).await.problem(), (404, "not_found".to_owned()));
    assert_eq!(centre.get(&kernel).await.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn bytes_without_a_name_are_let_go_after_a_day_and_others_never() {
    let centre = Centre::start().await;
    let stored = centre.put_content(NAME, "a").await.data().clone();
    centre.put_content("images/other", "b").await.data();
    let stray = centre.content_dir.path().join("content/objects/ff/ff01");
    std::fs::create_dir_all(stray.parent().expect("a parent")).expect("made");
    for file in [stray.clone(), stray.with_file_name("ff02#1")] {
        std::fs::write(file, "left by a crash").expect("written");
    }
    let agent = centre.join("berlin").await;
    let object = format!("/api/v1/agents/objects/{}", stored["sha256"].as_str().expect("a hash"));
    let of_agent = async || centre.call(&agent.credential, "GET", &object, None).await.status;
    centre.delete(PATH).await.data();
    let day = Duration::from_secs(24 * 60 * 60);
    let now = SystemTime::now();
    centre.pass_seconds(24 * 60 * 60 - 1);
    sweep(&centre.app, now + day - Duration::from_secs(60)).await.expect("swept");
    assert_eq!(
        (centre.files().len(), of_agent().await),
        (5, StatusCode::OK),
        "a site may be fetching it"
    );
    centre.put_content("images/again", "a").await.data();
    centre.pass_seconds(24 * 60 * 60);
    sweep(&centre.app, now + day - Duration::from_secs(60)).await.expect("swept");
    assert_eq!(of_agent().await, StatusCode::OK, "it has a name again");
    centre.delete("/api/v1/content/images/again").await.data();
    centre.pass_seconds(24 * 60 * 60 + 1);
    sweep(&centre.app, now + day + Duration::from_secs(60)).await.expect("swept");
    assert_eq!((centre.files().len(), of_agent().await), (2, StatusCode::NOT_FOUND));
    assert_eq!(centre.fetch("/api/v1/content/images/other", &[]).await.2, "b");
}

#[tokio::test]
async fn d7_bytes_that_have_come_to_harm_are_healed_by_the_same_upload() {
    let centre = Centre::start().await;
    centre.put_content(NAME, "whole").await.data();
    for file in centre.files() {
        std::fs::remove_file(file).expect("lost");
    }
    let lost = centre.get(PATH).await;
    assert_eq!(lost.problem(), (503, "content_store_unavailable".to_owned()));
    centre.put_content(NAME, "whole").await.data();
    assert_eq!(centre.fetch(PATH, &[]).await.2, "whole");
}

#[tokio::test]
async fn an_agent_reads_content_by_name_and_by_hash_and_writes_none() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await.credential;
    let bytes = noise((2 << 20) + 5, 6);
    let sha256 = hash(&bytes);
    centre.put_content(NAME, bytes.clone()).await.data();
    let object = format!("/api/v1/agents/objects/{sha256}");
    for path in [&format!("/api/v1/agents/content/{NAME}"), &object] {
        let request = request(Some(&agent), "GET", path, None);
        let (status, headers, body) = centre.exchange(request).await;
        assert_eq!((status, body), (StatusCode::OK, bytes.clone()));
        assert_eq!(headers["etag"], tag(&sha256));
        for verb in ["PUT", "DELETE"] {
            assert_eq!(centre.call(&agent, verb, path, None).await.status, 405);
        }
    }
    let chunks = request(Some(&agent), "GET", &format!("{object}/chunks"), None);
    let (_, _, chunks) = centre.exchange(chunks).await;
    let mut rest = &bytes[..];
    for row in chunks.chunks(Chunks::ROW_LEN) {
        let len = u32::from_be_bytes(row[..4].try_into().expect("four bytes")) as usize;
        let (chunk, later) = rest.split_at(len);
        assert_eq!(row[4..], Sha256::digest(chunk)[..]);
        rest = later;
    }
    assert!(rest.is_empty() && chunks.len() > Chunks::ROW_LEN, "{} bytes", chunks.len());
    for path in ["/api/v1/agents/objects/00", &format!("/api/v1/agents/objects/{}", hash(b"none"))]
    {
        assert_eq!(
            centre.call(&agent, "GET", path, None).await.problem(),
            (404, "not_found".to_owned())
        );
    }
    let of_operators = centre.call(&agent, "GET", PATH, None).await;
    assert_eq!(of_operators.problem(), (403, "forbidden".to_owned()));
}
