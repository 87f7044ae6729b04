//! What may carry requests in place of connections.

use std::pin::Pin;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};

use super::CallError;

/// Carries requests in place of connections: a simulation's network.
pub trait Wire {
    /// The answer to `request`; dropped when it takes too long.
    fn carry(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, CallError>>>>;
}
