//! Who may do what, and who did what.

use axum::http::Method;

use super::operation::Operation;
use crate::api::{audit, session, tokens, users};
use crate::store::{AuditRow, Token, User, UserPatch};

pub(super) fn operations() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    let post = |path, summary| Operation::new(Method::POST, path, summary);
    let patch = |path, summary| Operation::new(Method::PATCH, path, summary);
    let delete = |path, summary| Operation::new(Method::DELETE, path, summary);
    vec![
        post("/api/v1/session", "Sign in with a password; the answer sets a cookie")
            .body::<session::Credentials>()
            .one::<session::Identity<'static>>()
            .for_anyone()
            .refuses(401)
            .refuses(403),
        get("/api/v1/session", "Who calls").one::<session::Identity<'static>>(),
        delete("/api/v1/session", "Sign out").one::<session::Identity<'static>>(),
        post("/api/v1/session/password", "Give oneself another password; all sessions end")
            .body::<session::PasswordChange>()
            .one::<User>(),
        get("/api/v1/tokens", "List API tokens").page::<Token>(),
        post("/api/v1/tokens", "Make an API token; its secret is shown once")
            .body::<tokens::Wish>()
            .created::<tokens::Issued>()
            .refuses(409),
        delete("/api/v1/tokens/{id}", "Revoke an API token").one::<Token>(),
        get("/api/v1/users", "List people").page::<User>(),
        post("/api/v1/users", "Make an account")
            .body::<users::Account>()
            .created::<User>()
            .refuses(409),
        get("/api/v1/users/{id}", "Read an account").one::<User>(),
        patch("/api/v1/users/{id}", "Change an account's role, or disable it")
            .body::<UserPatch>()
            .one::<User>()
            .refuses(409),
        delete("/api/v1/users/{id}", "Delete an account").one::<User>().refuses(409),
        post("/api/v1/users/{id}/password", "Give somebody another password")
            .body::<users::PasswordReset>()
            .one::<User>(),
        get("/api/v1/audit", "List who did what, the latest first")
            .query::<audit::Filter>()
            .page::<AuditRow>(),
    ]
}
