//! What is kept and what is not, in a directory.

use super::*;

fn objects(dir: &tempfile::TempDir) -> Objects {
    Objects::open(&ContentPlace::Dir(dir.path().to_owned())).expect("a directory will do")
}

fn files(dir: &tempfile::TempDir) -> usize {
    let entries = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries(dir.path().join(FOLDER)).flat_map(|shard| entries(shard.path())).count()
}

async fn read(objects: &Objects, location: &Location, range: Range<u64>) -> Vec<u8> {
    let mut stream = objects.read(location, range).await.expect("it is there");
    let mut bytes = Vec::new();
    while let Some(next) = stream.next().await {
        bytes.extend_from_slice(&next.expect("readable"));
    }
    bytes
}

#[tokio::test]
async fn bytes_are_there_once_they_are_finished_and_not_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let objects = objects(&dir);
    for len in [0, 1, DIR_PART_LEN, DIR_PART_LEN + 1, 3 * DIR_PART_LEN] {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251).to_le_bytes()[0]).collect();
        let mut writer = objects.begin();
        for piece in bytes.chunks(700_001) {
            writer.write(Bytes::copy_from_slice(piece)).await.expect("room");
        }
        let unfinished = writer.location.clone();
        assert!(!objects.is_whole(&unfinished, len as u64).await);
        let location = writer.finish().await.expect("kept");
        assert!(objects.is_whole(&location, len as u64).await);
        assert!(!objects.is_whole(&location, len as u64 + 1).await);
        assert_eq!(read(&objects, &location, 0..len as u64).await, bytes);
        if len > READ_LEN + 2 {
            let end = READ_LEN + 2;
            assert_eq!(read(&objects, &location, 1..end as u64).await, bytes[1..end]);
        }
        assert_eq!(files(&dir), 1);
        objects.delete(&location).await.expect("deleted");
        objects.delete(&location).await.expect("deleted already");
        assert_eq!(files(&dir), 0);
    }
}

#[tokio::test]
async fn k11_what_is_aborted_or_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let objects = objects(&dir);
    for aborts in [true, false] {
        let mut writer = objects.begin();
        let bytes = Bytes::from(vec![1; 2 * DIR_PART_LEN + 1]);
        writer.write(bytes).await.expect("room");
        assert_eq!(files(&dir), 1, "what is collected");
        if aborts {
            writer.abort().await;
        } else {
            drop(writer);
        }
        let gone = async {
            while files(&dir) > 0 {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("cleared up");
    }
}

#[test]
fn d2_a_full_disk_is_known_for_what_it_is() {
    for (kind, is_full) in [
        (io::ErrorKind::StorageFull, true),
        (io::ErrorKind::QuotaExceeded, true),
        (io::ErrorKind::PermissionDenied, false),
    ] {
        let source = anyhow::Error::from(io::Error::from(kind)).context("writing");
        let error = Error::Generic { store: "test", source: source.into_boxed_dyn_error() };
        assert_eq!(matches!(ObjectError::from(error), ObjectError::Full(_)), is_full, "{kind}");
    }
}

#[tokio::test]
async fn a_place_belongs_to_the_database_that_was_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let objects = Objects::open(&ContentPlace::Dir(dir.path().to_owned())).expect("a directory");
    for _ in 0..2 {
        objects.claim("one").await.expect("it is its own");
    }
    let error = objects.claim("other").await.expect_err("another's").to_string();
    for expected in ["belongs to the database one", "--content", "'owner'"] {
        assert!(error.contains(expected), "{error}");
    }
    let mark = dir.path().join("owner");
    objects
        .sweep(&HashSet::new(), SystemTime::now() + Duration::from_secs(1))
        .await
        .expect("swept");
    assert!(mark.exists(), "the mark is no stray");
    std::fs::remove_file(mark).expect("deleted");
    objects.claim("other").await.expect("given up");
}
