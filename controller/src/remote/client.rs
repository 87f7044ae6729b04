//! The API as a handful of calls: each has a deadline and a bound, none follows a redirect, and the token is in a header only.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use pureboot_protocol::{Problem, Secret};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::data_dir;
use crate::remote::place::{BaseUrl, Place, TokenSource};

/// What a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What a call may take that moves no file, its answer included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer that is read, in bytes; a manifest of 100,000 entries fits.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// The rows that are asked for at once; the API gives no more.
const PAGE_LEN: usize = 500;
/// What is shown of an answer that no controller gave, in characters.
const ODD_LEN_MAX: usize = 200;

/// Query parameters.
pub(crate) type Query<'a> = Vec<(&'a str, String)>;

/// Why there is no answer, or not the one that was wanted. The operator reads this text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The controller says no.
    #[error("{}", refusal(.0))]
    Refused(Box<Problem>),
    /// Somebody answered who is no controller.
    #[error("{url} is no controller, or something stands before it: it answered {status}{said}")]
    Odd {
        /// Who was asked.
        url: String,
        /// What it said.
        status: StatusCode,
        /// More of it, after a colon.
        said: String,
    },
    /// Nobody answered.
    #[error("cannot reach the controller at {url}: {cause}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// The innermost reason.
        cause: String,
    },
    /// The answer is larger than anybody reads.
    #[error("the answer is larger than {ANSWER_LEN_MAX} bytes")]
    TooLong,
}

/// A problem for people: what it says, field by field where it does, and where the controller's log tells more.
fn refusal(problem: &Problem) -> String {
    let Problem { detail, code, correlation_id, errors, .. } = problem;
    let fields: Vec<_> =
        errors.iter().map(|error| format!("\n  {}: {}", error.field, error.message)).collect();
    let said = if fields.is_empty() { detail } else { "the controller does not take this" };
    format!("{said}{}\n  {code}, correlation id {correlation_id}", fields.concat())
}

/// A controller that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: BaseUrl,
}

impl Client {
    /// A client for `place`. Nothing is sent yet.
    ///
    /// # Errors
    /// The token or the authority cannot be read.
    pub(crate) fn new(place: Place) -> anyhow::Result<Self> {
        let Place { url, token, ca_file } = place;
        let token = match token {
            TokenSource::Given(token) => Secret::new(token.reveal().trim().to_owned()),
            TokenSource::File(file) => data_dir::private_text(&file)?
                .with_context(|| format!("there is no token file {}", file.display()))?,
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            .ok()
            .filter(|_| !token.reveal().is_empty())
            .context("what stands where the API token belongs is no token")?;
        bearer.set_sensitive(true);
        // Whoever came first has set the same one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("pureboot-controller/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .http1_only();
        if url.is_loopback() {
            builder = builder.no_proxy();
        }
        if let Some(file) = &ca_file {
            builder = builder.tls_certs_only(authority(file)?);
        }
        Ok(Self { http: builder.build().context("cannot make a client")?, url })
    }

    /// The controller's address.
    pub(crate) fn url(&self) -> &BaseUrl {
        &self.url
    }

    /// Reads the resource at `path`; returns its `data`.
    ///
    /// # Errors
    /// Those of [`CallError`].
    pub(crate) async fn get(&self, path: &[&str], query: Query<'_>) -> Result<Value, CallError> {
        self.send(Method::GET, path, query, None).await
    }

    /// Reads the list at `path`, page by page; at most `most` rows if that is said.
    ///
    /// # Errors
    /// Those of [`CallError`].
    pub(crate) async fn list(
        &self,
        path: &[&str],
        query: Query<'_>,
        most: Option<usize>,
    ) -> Result<Vec<Value>, CallError> {
        let (mut rows, mut cursor) = (Vec::new(), None);
        loop {
            let left = most.map_or(PAGE_LEN, |most| most.saturating_sub(rows.len()));
            if left == 0 {
                return Ok(rows);
            }
            let mut page = query.clone();
            page.push(("limit", left.min(PAGE_LEN).to_string()));
            page.extend(cursor.map(|cursor| ("cursor", cursor)));
            let mut answer = self.ask(Method::GET, path, &page, None).await?;
            if let Value::Array(mut more) = take(&mut answer, "data") {
                rows.append(&mut more);
            }
            match take(&mut answer, "next_cursor") {
                Value::String(next) => cursor = Some(next),
                _ => return Ok(rows),
            }
        }
    }

    /// Sends `body` to the resource at `path`; returns the `data` of the answer.
    ///
    /// # Errors
    /// Those of [`CallError`].
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: Query<'_>,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let mut answer = self.ask(method, path, &query, body).await?;
        Ok(take(&mut answer, "data"))
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let mut request = self.request(method, path, query).timeout(CALL_TIMEOUT);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.answer(response).await
    }

    /// A request without deadline, for what moves a file.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> RequestBuilder {
        self.http.request(method, self.url.resource(path, query))
    }

    /// The JSON of a success.
    ///
    /// # Errors
    /// Those of [`CallError`].
    pub(crate) async fn answer(&self, response: Response) -> Result<Value, CallError> {
        let response = self.success(response).await?;
        let (status, body) = (response.status(), self.body(response).await?);
        serde_json::from_slice(&body).map_err(|_| self.odd(status, &String::from_utf8_lossy(&body)))
    }

    /// `response` if it is a success, whose body may be long.
    ///
    /// # Errors
    /// Those of [`CallError`].
    pub(crate) async fn success(&self, response: Response) -> Result<Response, CallError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if let Some(place) = response.headers().get(LOCATION) {
            let place = String::from_utf8_lossy(place.as_bytes());
            return Err(
                self.odd(status, &format!("look at {place}, where no token is sent unasked"))
            );
        }
        let body = self.body(response).await?;
        Err(match serde_json::from_slice(&body) {
            Ok(problem) => CallError::Refused(Box::new(problem)),
            Err(_) => self.odd(status, &String::from_utf8_lossy(&body)),
        })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, CallError> {
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + bytes.len() > ANSWER_LEN_MAX {
                return Err(CallError::TooLong);
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    fn odd(&self, status: StatusCode, text: &str) -> CallError {
        let text: String = text.chars().take(ODD_LEN_MAX).filter(|c| !c.is_control()).collect();
        let said = if text.is_empty() { text } else { format!(": {text}") };
        CallError::Odd { url: self.url.to_string(), status, said }
    }

    /// Says why `error` happened in the words of its innermost cause; the outer ones repeat the URL.
    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> CallError {
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let cause = match error.is_timeout() {
            true => "no answer in time".to_owned(),
            false => cause.to_string(),
        };
        CallError::Unreachable { url: self.url.to_string(), cause }
    }
}

fn authority(file: &Path) -> anyhow::Result<Vec<Certificate>> {
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificates = Certificate::from_pem_bundle(&pem);
    let certificates =
        certificates.with_context(|| format!("{} holds no certificate in PEM", file.display()))?;
    ensure!(!certificates.is_empty(), "{} holds no certificate in PEM", file.display());
    Ok(certificates)
}

fn take(answer: &mut Value, name: &str) -> Value {
    answer.get_mut(name).map(Value::take).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::FieldError;

    use super::*;

    fn problem(errors: Vec<FieldError>) -> Problem {
        Problem {
            kind: "about:blank".to_owned(),
            title: "Conflict".to_owned(),
            status: 409,
            detail: "there is a site 'berlin' already".to_owned(),
            code: "name_taken".to_owned(),
            correlation_id: "c0ffee".to_owned(),
            errors,
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_where_the_log_tells_more() {
        assert_eq!(
            refusal(&problem(Vec::new())),
            "there is a site 'berlin' already\n  name_taken, correlation id c0ffee"
        );
        let error = |field: &str| FieldError { field: field.to_owned(), message: "no".to_owned() };
        assert_eq!(
            refusal(&problem(vec![error("name"), error("tags")])),
            "the controller does not take this\n  name: no\n  tags: no\n  name_taken, correlation id c0ffee"
        );
    }
}
