//! A controller in one process with those who call it: no socket, no job that begins by itself, and time and chance that are
//! theirs. For a simulation; everything behind the sockets is the real one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use pureboot_protocol::{Secret, Timestamp};
use tower::ServiceExt;

use crate::config::{ContentConfig, ContentPlace, Database, LimitConfig};
use crate::content::Content;
use crate::data_dir::{DataDir, OperatorToken};
use crate::extract::Peer;
use crate::jobs;
use crate::random;
use crate::router::{App, router};
use crate::store::Store;
use crate::vault::{KEY_LEN, Vault};

/// The largest file of content, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// A running controller.
pub struct Controller {
    app: App,
    router: Router,
    /// The operator's token, if this was its first start.
    pub operator: Option<Secret>,
}

/// From here on the random numbers of this thread, which is that of the runtime, come from `chance`.
pub fn draw_from(chance: impl FnMut(&mut [u8]) + 'static) {
    random::draw_from(Some(Box::new(chance)));
}

impl Controller {
    /// Opens the controller whose SQLite database, keys and content are in `dir`, and makes them at the first start. It needs a
    /// runtime of tokio with one thread.
    ///
    /// # Errors
    /// Something in `dir` cannot be used.
    pub async fn open(
        dir: &Path,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> anyhow::Result<Self> {
        let data_dir = DataDir::make(dir)?;
        let store = Store::open(&Database::File(dir.join("controller.db"))).await;
        let store = store.context("cannot open the database")?;
        let content = ContentConfig {
            place: ContentPlace::Dir(dir.join("content")),
            file_len_max: FILE_LEN_MAX,
            signing_key_file: dir.join("signing-key"),
            replaces_signing_key: false,
        };
        let content = Content::open(&content, &store).await?;
        let token = data_dir.first_token(&store, clock()).await?;
        // Limits go by the real clock, which a simulation is faster than.
        let unlimited = LimitConfig { per_credential: 0, per_address: 0, failures: u32::MAX };
        let app = App::new(store, content, clock, Vault::new(&[0; KEY_LEN])).limited(unlimited);
        let operator = token.map(|OperatorToken { secret, .. }| secret);
        Ok(Self { router: router(app.clone()), app, operator })
    }

    /// The whole answer to `request`.
    ///
    /// # Errors
    /// The answer breaks off.
    pub async fn answer(&self, request: Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(Peer(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))));
        let answer = match self.router.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await.context("an answer broke off")?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// Does once what a controller does again and again without being asked.
    ///
    /// # Errors
    /// The database fails.
    pub async fn work(&self) -> anyhow::Result<()> {
        jobs::install_timeout::look(&self.app).await?;
        Ok(jobs::retention::look(&self.app).await?)
    }

    /// Takes the database for one that has just been brought back from a backup.
    ///
    /// # Errors
    /// The database fails.
    pub async fn bring_back(&self) -> anyhow::Result<()> {
        Ok(self.app.store.bring_back(self.app.now()).await?)
    }

    /// Closes the database.
    pub async fn close(self) {
        self.app.beats.end().await;
        self.app.store.close().await;
    }
}
