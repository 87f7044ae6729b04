//! What may be replaced, and backups of earlier versions.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::Store;
use crate::store::testing::database;
use crate::store::tests::{busy_database, is_as_it_was};

#[test]
fn d15_a_backup_takes_the_place_of_a_file_at_most_and_of_that_only_by_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.tar");
    assert!(may_write(&file, false).is_ok());
    std::fs::write(&file, "the last one").expect("written");
    assert!(may_write(&file, false).is_err());
    assert!(may_write(&file, true).is_ok());
    let link = dir.path().join("b.tar");
    std::os::unix::fs::symlink(dir.path().join("nothing"), &link).expect("a link");
    for place in [&link, dir.path()] {
        for force in [false, true] {
            let error = may_write(place, force).expect_err("refused").to_string();
            assert!(error.contains("is no file"), "{error}");
        }
    }
}

#[tokio::test]
async fn k7_a_backup_of_an_earlier_version_is_brought_up_where_it_is_restored() {
    let mine = Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().permissions(mine).tempdir().expect("a directory");
    let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
    DataDir::make(&old).expect("a directory");
    let source = database(&old).await;
    busy_database(&source).await;
    Signer::make(&old.join(SIGNING_KEY)).expect("a key");
    secrets_key::make(&old.join(SECRETS_KEY)).expect("a key");
    let file = dir.path().join("backup.tar");
    let backup = BackupArguments {
        file: file.clone(),
        force: false,
        without_content: false,
        data_dir: old,
        database: Some(match source {
            Database::File(path) => path.display().to_string(),
            Database::Server(url) => url.reveal().to_owned(),
        }),
        content: None,
        signing_key_file: None,
        secrets_key_file: None,
    };
    run_backup(backup).await.expect("a backup");
    let restore = RestoreArguments {
        file,
        force: false,
        check: false,
        data_dir: new.clone(),
        // A server is shared with other tests, whose connections a restore does not go on beside.
        database: Some(new.join("controller.db").display().to_string()),
        content: None,
        signing_key_file: None,
        secrets_key_file: None,
    };
    run_restore(restore).await.expect("restored");
    let store = Store::open(&Database::File(new.join("controller.db"))).await.expect("opened");
    is_as_it_was(&store, 2).await;
}
