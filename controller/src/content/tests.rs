//! The key that agents have pinned; content for the tests of others.

use std::path::Path;

use super::*;
use crate::config::ContentPlace;
use crate::store::testing::database;

/// Content in `dir`, with files of up to 32 MiB.
pub(crate) async fn content_in(dir: &Path, store: &Store) -> Content {
    let config = ContentConfig {
        place: ContentPlace::Dir(dir.join("content")),
        file_len_max: 32 << 20,
        signing_key_file: dir.join("signing-key"),
        replaces_signing_key: false,
    };
    Content::open(&config, store).await.expect("a place for content")
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_refused_until_it_is_replaced_on_purpose() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&database(dir.path()).await).await.expect("a database");
    let config = |key: &str, replaces_signing_key| ContentConfig {
        place: ContentPlace::Dir(dir.path().join("content")),
        file_len_max: 1,
        signing_key_file: dir.path().join(key),
        replaces_signing_key,
    };
    let first = Content::open(&config("key", false), &store).await.expect("made").signer.public();
    let again = Content::open(&config("key", false), &store).await.expect("found").signer.public();
    assert_eq!(first, again);

    let error = Content::open(&config("none", false), &store).await.expect_err("no key");
    assert!(error.to_string().contains("--replace-signing-key"), "{error}");
    assert!(!dir.path().join("none").exists(), "no second key is made behind a lost one");
    Signer::make(&dir.path().join("other")).expect("made");
    let error = Content::open(&config("other", false), &store).await.expect_err("another key");
    assert!(error.to_string().contains("which is not the one of this database"), "{error}");

    let new = Content::open(&config("new", true), &store).await.expect("replaced").signer.public();
    assert_ne!(new, first);
    let error = Content::open(&config("key", false), &store).await.expect_err("given up");
    assert!(error.to_string().contains(&first.id()), "{error}");
}
