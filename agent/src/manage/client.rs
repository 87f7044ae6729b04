//! How the command line asks the running agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{Empty, Full};
use hyper::body::{Body, Bytes};
use hyper::header::HOST;
use hyper::{Request, Response};
use pureboot_protocol::Problem;
use serde::de::DeserializeOwned;
use smol::LocalExecutor;
use smol::net::unix::UnixStream;

use crate::exchange::{Connection, ExchangeError};

/// For questions that the agent answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at what the agent is working on.
const WATCH_REST: Duration = Duration::from_millis(500);

/// Why the running agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the socket.
    #[error(
        "the agent is not running (nobody answers on {socket}): start it with `pureboot-agent start`"
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot speak to the agent on {socket}: {error}")]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The exchange was late or broke off.
    #[error("the agent did not answer: {0}")]
    Exchange(#[from] ExchangeError),
    /// The agent refused, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The answer is not one of this version's.
    #[error("the agent's answer is not understood (another version?): {0}")]
    Foreign(String),
}

/// Asks for `path` and reads the answer.
///
/// # Errors
/// The agent does not run or gives no answer.
pub fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    ask_within(socket, path, PATIENCE)
}

/// As [`ask`], with a limit of the caller's.
///
/// # Errors
/// The agent does not run or gives no answer within `patience`.
pub fn ask_within<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    patience: Duration,
) -> Result<T, AskError> {
    let request = Request::get(path).body(Empty::<Bytes>::new());
    send(socket, request.expect("a path that the program has made"), patience)
}

/// Sends `request` and reads the answer.
///
/// # Errors
/// The agent does not run, refuses, or gives no answer within `patience`.
pub fn send<B, T>(socket: &Path, request: Request<B>, patience: Duration) -> Result<T, AskError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T: DeserializeOwned,
{
    let executor = LocalExecutor::new();
    #[expect(clippy::disallowed_methods, reason = "shell: the command line's one wait")]
    let answer = smol::block_on(executor.run(exchange(&executor, socket, request, patience)))?;
    read(&answer)
}

/// Sends `request`, and asks for `beside` again and again while the agent works on it; `heard` gets each of those answers.
///
/// # Errors
/// As [`send`].
pub fn send_and_watch<T: DeserializeOwned, W: DeserializeOwned>(
    socket: &Path,
    request: Request<Full<Bytes>>,
    patience: Duration,
    beside: &str,
    mut heard: impl FnMut(W),
) -> Result<T, AskError> {
    let executor = LocalExecutor::new();
    let watching = async {
        loop {
            smol::Timer::after(WATCH_REST).await;
            let request = Request::get(beside).body(Empty::<Bytes>::new());
            let request = request.expect("a path that the program has made");
            // What the main question comes to says what is wrong.
            if let Ok(answer) = exchange(&executor, socket, request, PATIENCE).await
                && let Ok(state) = read(&answer)
            {
                heard(state);
            }
        }
    };
    let asking = exchange(&executor, socket, request, patience);
    #[expect(clippy::disallowed_methods, reason = "shell: the command line's one wait")]
    let answer = smol::block_on(executor.run(smol::future::or(asking, watching)))?;
    read(&answer)
}

async fn exchange<B>(
    executor: &LocalExecutor<'_>,
    socket: &Path,
    request: Request<B>,
    patience: Duration,
) -> Result<Response<Bytes>, AskError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning { socket: socket.to_owned() }
        }
        _ => AskError::Socket { socket: socket.to_owned(), error },
    })?;
    let mut connection = Connection::open(executor, stream).await?;
    let (mut head, body) = request.into_parts();
    head.headers.insert(HOST, hyper::header::HeaderValue::from_static("agent"));
    Ok(connection.exchange(Request::from_parts(head, body), patience).await?)
}

fn read<T: DeserializeOwned>(answer: &Response<Bytes>) -> Result<T, AskError> {
    if answer.status().is_success() {
        return serde_json::from_slice(answer.body())
            .map_err(|error| AskError::Foreign(error.to_string()));
    }
    match serde_json::from_slice::<Problem>(answer.body()) {
        Ok(problem) => Err(AskError::Refused(problem.detail)),
        Err(_) => Err(AskError::Foreign(format!("{} without a problem document", answer.status()))),
    }
}
