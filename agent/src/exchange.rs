//! One HTTP/1.1 exchange as a client: a request, an answer, a limit on both.
//!
//! Used towards the controller and, by the command line, towards the running agent's socket. It follows no redirect, asks for
//! no compression, and takes nothing for an answer that did not end as its own head said.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode};
use smol::io::{AsyncRead, AsyncWrite};
use smol::{LocalExecutor, Task};
use smol_hyper::rt::FuturesIo;

use crate::clock::Timer;

/// The longest answer that is read, in bytes.
pub const ANSWER_LEN_MAX: usize = 1024 * 1024;

/// The longest head of an answer, in bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nothing complete came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The connection broke, or what came was not HTTP.
    #[error("the exchange broke off: {0}")]
    Broken(#[source] hyper::Error),
    /// The answer's body broke off or is longer than [`ANSWER_LEN_MAX`].
    #[error("the answer broke off or is too long: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer says neither how long it is nor that it comes in chunks, so a broken connection could pass for its end.
    #[error("the answer does not say where it ends")]
    Endless,
}

/// A connection that can carry one exchange after the other. Dropping it closes the socket, whatever is under way.
pub struct Connection<B = Full<Bytes>> {
    sender: SendRequest<B>,
    _driver: Task<()>,
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Speaks HTTP over a connected stream.
    ///
    /// # Errors
    /// The stream is closed already.
    pub async fn open<S>(executor: &LocalExecutor<'_>, stream: S) -> Result<Self, ExchangeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(HEAD_LEN_MAX)
            .handshake(FuturesIo::new(stream))
            .await
            .map_err(ExchangeError::Broken)?;
        let driver = async move {
            if let Err(error) = driver.await {
                log::debug!(error:%; "a connection as a client has ended");
            }
        };
        Ok(Self { sender, _driver: executor.spawn(driver) })
    }

    /// Whether the other side still holds the connection open.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// No complete answer came within `budget`; the connection is of no further use then.
    pub async fn exchange(
        &mut self,
        request: Request<B>,
        budget: Duration,
    ) -> Result<Response<Bytes>, ExchangeError> {
        within(budget, async {
            let (head, body) = self.ask(request).await?.into_parts();
            let body =
                Limited::new(body, ANSWER_LEN_MAX).collect().await.map_err(ExchangeError::Body)?;
            Ok(Response::from_parts(head, body.to_bytes()))
        })
        .await
    }

    /// Sends one request and reads the head of the answer; the body is the caller's to read, as it comes.
    ///
    /// # Errors
    /// No head came within `budget`; the connection is of no further use then.
    pub async fn begin(
        &mut self,
        request: Request<B>,
        budget: Duration,
    ) -> Result<Response<Incoming>, ExchangeError> {
        within(budget, self.ask(request)).await
    }

    async fn ask(&mut self, request: Request<B>) -> Result<Response<Incoming>, ExchangeError> {
        self.sender.ready().await.map_err(ExchangeError::Broken)?;
        let answer = self.sender.send_request(request).await.map_err(ExchangeError::Broken)?;
        let says_its_end = |name| answer.headers().contains_key(name);
        let has_body = answer.status() != StatusCode::NOT_MODIFIED;
        if has_body && !says_its_end(CONTENT_LENGTH) && !says_its_end(TRANSFER_ENCODING) {
            return Err(ExchangeError::Endless);
        }
        Ok(answer)
    }
}

/// Runs `work`, but not for longer than `budget`.
///
/// # Errors
/// The work's own, or [`ExchangeError::Late`].
pub async fn within<T, E: From<ExchangeError>>(
    budget: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = async {
        Timer::after(budget).await;
        Err(ExchangeError::Late(budget).into())
    };
    smol::future::or(work, late).await
}
