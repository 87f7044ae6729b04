//! What goes out after a head, and what comes in after one.

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Bytes, Incoming};
use smol::Timer;
use smol::future::FutureExt;
use smol::stream::{self, Stream};

use super::loan::Chunk;
use super::object::{ObjectBody, Sent};
use super::{CorrelationId, Response, problem};

/// What goes out after a head. Its length is known before the first byte, always.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// A text that is in memory.
    Full(Bytes),
    /// Bytes of an object, read as the peer takes them.
    Object(ObjectBody),
}

impl Body {
    /// How many bytes are still to come.
    pub fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full(bytes) => bytes.len() as u64,
            Self::Object(object) => object.len(),
        }
    }

    /// Has `told` called once when the connection has taken the last byte of an object, or will take no more of it.
    pub fn on_end(mut self, told: impl FnOnce(Sent) + 'static) -> Self {
        if let Self::Object(object) = &mut self {
            object.on_end(Box::new(told));
        }
        self
    }

    /// Sends the bytes of an object no faster than this; what is in memory is too short for that to matter.
    pub fn paced(mut self, bytes_per_s: NonZeroU32) -> Self {
        if let Self::Object(object) = &mut self {
            object.pace(bytes_per_s);
        }
        self
    }

    /// Whether no byte is to come.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Full(text.into())
    }
}

impl Body {
    /// What comes next; none at the end.
    pub(super) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Chunk>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Chunk::Bytes(bytes))))
            }
            Self::Object(object) => object.poll_chunk(context),
        }
    }
}

/// Why a request's body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer gets 413.
    #[error("the body is longer than {len_max} bytes")]
    TooLong {
        /// What would have been read.
        len_max: usize,
    },
    /// The peer gets 408.
    #[error("the body did not come in time")]
    TooLate,
    /// The peer gets 400, if it is still there.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
}

impl BodyError {
    /// What the peer is told.
    pub fn answer(&self, correlation_id: &CorrelationId) -> Response {
        let (status, code) = match self {
            Self::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_long"),
            Self::TooLate => (StatusCode::REQUEST_TIMEOUT, "body_too_late"),
            Self::Broken(_) => (StatusCode::BAD_REQUEST, "body_broken"),
        };
        problem(status, code, self.to_string(), correlation_id)
    }
}

/// Reads a body of at most `len_max` bytes that is whole at `deadline`. Memory is taken as bytes come, whatever length was
/// announced.
///
/// # Errors
/// The body is too long, too late, or not whole.
pub async fn read_body(
    mut body: Incoming,
    len_max: usize,
    deadline: Instant,
) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > len_max as u64 {
        return Err(BodyError::TooLong { len_max });
    }
    let whole = async {
        let mut collected = vec![];
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(BodyError::Broken)?.into_data() {
                if collected.len() + bytes.len() > len_max {
                    return Err(BodyError::TooLong { len_max });
                }
                collected.extend_from_slice(&bytes);
            }
        }
        Ok(Bytes::from(collected))
    };
    let late = async {
        Timer::at(deadline).await;
        Err(BodyError::TooLate)
    };
    whole.or(late).await
}

/// A body of any length as it comes. It ends with an error if it breaks off, or if nothing comes for `stall_time`.
pub fn chunks(
    body: Incoming,
    stall_time: Duration,
) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>>>> {
    Box::pin(stream::try_unfold(body, move |mut body| async move {
        loop {
            let next = async { Ok(body.frame().await) };
            let stall = async {
                Timer::after(stall_time).await;
                Err(io::Error::from(io::ErrorKind::TimedOut))
            };
            let Some(frame) = next.or(stall).await? else { return Ok(None) };
            let frame =
                frame.map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error))?;
            // What is not data are trailers, and requests with those are refused before they come here.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some((bytes, body)));
            }
        }
    }))
}
