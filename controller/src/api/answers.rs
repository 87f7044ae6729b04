//! `/agents/answers`: what an agent renders the answer files of its machines by.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{ContentHash, SheetAnswer, SheetQuestion, Success};
use sha2::{Digest, Sha256};

use crate::answer::{Composed, compose};
use crate::api::check::Check;
use crate::auth::Agent;
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Json, json};
use crate::router::App;
use crate::store::{Origin, SealedSecret};
use crate::vault;

/// How many bytes of texts one answer has, but for its last text: an agent reads 1 MiB. It asks again for the rest.
const TEXTS_LEN_MAX: usize = 384 << 10;

/// `POST /agents/answers`: the sheet of one node, and the texts of templates that the site does not hold yet.
pub(crate) async fn sheet(
    State(app): State<App>,
    agent: Agent,
    correlation_id: CorrelationId,
    Json(question): Json<SheetQuestion>,
) -> Result<Response, ApiError> {
    let mut check = Check::default();
    let (named, max) = (question.texts_held.len(), SheetQuestion::TEXTS_MAX);
    let message = format!("{named} texts, and {max} may be named at once");
    check.require("texts_held", named <= max, message);
    check.done()?;
    let kit = app.store.answer_kit(agent.site_id, question.node_id).await?;
    let open = |sealed: &SealedSecret| {
        let place = vault::place(&sealed.scope, &sealed.name);
        let opened = app.vault.open(&place, &sealed.sealed);
        opened.map_err(|error| ApiError::Internal(error.into()))
    };
    let Composed { sheet, texts } = compose(agent.site_id, &kit, open)?;
    let payload =
        serde_json::to_string(&sheet).map_err(|error| ApiError::Internal(error.into()))?;
    let digest = ContentHash::from_digest(Sha256::digest(&payload).into());
    let payload = (question.held != Some(digest)).then_some(payload);
    if payload.is_some() && !sheet.secrets.is_empty() {
        let leaving: Vec<_> =
            sheet.secrets.keys().filter_map(|name| kit.facts.secrets.get(name)).collect();
        let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
        let node = question.node_id.to_string();
        app.store.note_delivery(agent, &node, &leaving, origin).await?;
    }
    let held: BTreeSet<_> = question.texts_held.into_iter().collect();
    let mut room = TEXTS_LEN_MAX;
    let missing =
        texts.into_iter().filter(|(hash, _)| !held.contains(hash)).map_while(|(_, text)| {
            let fits = room > 0;
            room = room.saturating_sub(text.len());
            fits.then_some(text)
        });
    let signer = &app.content.signer;
    let answer = SheetAnswer {
        digest,
        signature: signer.sign_sheet(&question.nonce, &digest),
        key_id: signer.public().id(),
        payload,
        texts: missing.collect(),
    };
    Ok(json(StatusCode::OK, &Success::new(answer)))
}
