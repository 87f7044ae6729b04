//! An upload, from its first byte to its name.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use pureboot_protocol::{ContentHash, ContentKey};
use tokio::time::timeout;

use crate::content::digest::{Digester, Digests};
use crate::content::objects::{Location, ObjectError, Writer};
use crate::content::{Condition, emit_digest};
use crate::router::App;
use crate::serve::Progress;
use crate::store::{ContentEntry, Named, StoreError};

/// How long a sender may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a request says of the bytes that follow it.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The name that they are to have.
    pub(crate) key: ContentKey,
    /// How many they are.
    pub(crate) size_bytes: u64,
    /// What they hash to, if the sender says it.
    pub(crate) sha256: Option<ContentHash>,
    /// Under which condition the name may change.
    pub(crate) condition: Condition,
}

/// Why an upload comes to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The sender has gone silent.
    #[error("nothing came for {} s; send it again", SILENCE_MAX.as_secs())]
    Silent,
    /// The sender has gone, or said another length.
    #[error("{received} bytes came of {expected}; send it again")]
    Cut {
        /// What came.
        received: u64,
        /// What was to come.
        expected: u64,
    },
    /// The bytes are others than the sender's.
    #[error("the bytes that came have Content-Digest {}, not {}; send them again", emit_digest(.received), emit_digest(.expected))]
    Digest {
        /// Of what came.
        received: ContentHash,
        /// Of what was to come.
        expected: ContentHash,
    },
    /// They cannot be kept.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// They cannot be given their name.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes `body` in and gives it its name. Whatever fails, the name means what it meant before and nothing is left.
///
/// # Errors
/// See [`ReceiveError`].
pub(crate) async fn receive(
    app: &App,
    upload: &Upload,
    body: Body,
    progress: &Progress,
) -> Result<(ContentEntry, Named), ReceiveError> {
    let mut writer = app.content.objects.begin();
    let digests = match fill(&mut writer, upload, body, progress).await {
        Ok(digests) => digests,
        Err(error) => {
            writer.abort().await;
            return Err(error);
        }
    };
    let location = writer.finish().await?;
    let named = name(app, upload, &digests, &location).await;
    if !matches!(&named, Ok((_, _, kept)) if *kept == location) {
        discard(app, &location).await;
    }
    let (entry, named, _) = named?;
    Ok((entry, named))
}

async fn fill(
    writer: &mut Writer,
    upload: &Upload,
    body: Body,
    progress: &Progress,
) -> Result<Digests, ReceiveError> {
    let mut chunks = body.into_data_stream();
    let mut digester = Digester::default();
    let mut received = 0;
    let cut = |received| ReceiveError::Cut { received, expected: upload.size_bytes };
    loop {
        let chunk: Bytes = match timeout(SILENCE_MAX, chunks.next()).await {
            Err(_) => return Err(ReceiveError::Silent),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(cut(received)),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let len = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        received += len;
        progress.add(len);
        if received > upload.size_bytes {
            return Err(cut(received));
        }
        digester.update(&chunk);
        writer.write(chunk).await?;
    }
    if received < upload.size_bytes {
        return Err(cut(received));
    }
    let digests = digester.finish();
    match upload.sha256 {
        Some(expected) if expected != digests.sha256 => {
            Err(ReceiveError::Digest { received: digests.sha256, expected })
        }
        _ => Ok(digests),
    }
}

/// Gives what is at `location` its name; answers as well where its bytes are from then on.
async fn name(
    app: &App,
    upload: &Upload,
    digests: &Digests,
    location: &Location,
) -> Result<(ContentEntry, Named, Location), StoreError> {
    // Bytes that are kept already stay where they are, unless they have come to harm: then this upload is their cure.
    let is_spare = match app.store.object(digests.sha256).await? {
        Some(kept) => app.content.objects.is_whole(&kept.location, kept.size_bytes).await,
        None => false,
    };
    let Upload { key, condition, .. } = upload;
    app.store.name_content(key, digests, location, is_spare, condition, app.now()).await
}

/// Deletes what has got no name. What cannot be deleted is left to the sweep.
async fn discard(app: &App, location: &Location) {
    if let Err(error) = app.content.objects.delete(location).await {
        tracing::warn!(error = %error, "cannot delete what an upload left: {error}");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::config::ContentPlace;
    use crate::content::Objects;

    #[tokio::test(start_paused = true)]
    async fn c4_a_sender_that_goes_silent_is_let_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = ContentPlace::Dir(dir.path().to_owned());
        let mut writer = Objects::open(&place).expect("a directory will do").begin();
        let upload = Upload {
            key: "images/slow".parse().expect("a name"),
            size_bytes: 9,
            sha256: None,
            condition: Condition::default(),
        };
        let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from("a")) });
        let body = Body::from_stream(first.chain(stream::pending()));
        let error = fill(&mut writer, &upload, body, &Progress::default()).await;
        assert!(matches!(error, Err(ReceiveError::Silent)), "{error:?}");
    }
}
