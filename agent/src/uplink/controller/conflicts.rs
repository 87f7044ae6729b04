//! What the controller says of the site's conflicts, and how one is ended there.

use std::time::Duration;

use hyper::Method;
use pureboot_protocol::{Conflict, ConflictId, Page, SiteResolution, Success};

use super::{CallError, Controller};
use crate::store::OPEN_CONFLICTS_MAX;

impl Controller {
    /// The site's conflicts that wait for a person, the oldest first and at most so many as the site remembers.
    ///
    /// # Errors
    /// No answer in time, or a refusal.
    pub async fn open_conflicts(&self, budget: Duration) -> Result<Page<Conflict>, CallError> {
        let path = format!("/api/v1/agents/conflicts?limit={OPEN_CONFLICTS_MAX}");
        self.call(Method::GET, &path, None, budget).await
    }

    /// One conflict of the site, open or not.
    ///
    /// # Errors
    /// No answer in time, or a refusal.
    pub async fn conflict(&self, id: ConflictId, budget: Duration) -> Result<Conflict, CallError> {
        let path = format!("/api/v1/agents/conflicts/{id}");
        let answer: Success<Conflict> = self.call(Method::GET, &path, None, budget).await?;
        Ok(answer.data)
    }

    /// Ends a conflict of the site; sent again it has the same effect and answer.
    ///
    /// # Errors
    /// No answer in time, or a refusal.
    pub async fn resolve_conflict(
        &self,
        id: ConflictId,
        decision: &SiteResolution,
        budget: Duration,
    ) -> Result<Conflict, CallError> {
        let path = format!("/api/v1/agents/conflicts/{id}/resolve");
        let answer: Success<Conflict> = self.post(&path, decision, budget).await?;
        Ok(answer.data)
    }
}
