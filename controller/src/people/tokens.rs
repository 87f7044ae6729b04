//! `token …`.

use anyhow::{Context, ensure};
use pureboot_protocol::{Secret, TokenId};
use serde::Serialize;

use crate::auth;
use crate::auth::scope::Scopes;
use crate::auth::token::{self, DAYS, DAYS_TEXT};
use crate::config::people::{TokenArguments, TokenCommand, TokenList, TokenNew, TokenRevoke};
use crate::people::{Desk, all, moment, users};
use crate::store::{NewToken, Token};
use crate::{now, print_line, table};

/// Does what is asked.
///
/// # Errors
/// It cannot be done.
pub(crate) async fn run(arguments: TokenArguments) -> anyhow::Result<()> {
    match arguments.command {
        TokenCommand::New(new) => self::new(new).await,
        TokenCommand::List(TokenList { data_dir, database, json }) => {
            list(&Desk::open(&data_dir, database.as_deref(), json).await?).await
        }
        TokenCommand::Revoke(TokenRevoke { id, data_dir, database, json }) => {
            let desk = Desk::open(&data_dir, database.as_deref(), json).await?;
            let id: TokenId = id.parse()?;
            let work = desk.store.revoke_token(id, None, now());
            let token = desk.act("token revoke", work, |token| token.id.to_string()).await?;
            desk.say(&token, &format!("the token {:?} is good for nothing any more", token.name))
        }
    }
}

#[derive(Serialize)]
struct Issued {
    #[serde(flatten)]
    token: Token,
    secret: Secret,
}

async fn new(new: TokenNew) -> anyhow::Result<()> {
    ensure!(DAYS.contains(&new.expires_days), "--expires-days {}: {DAYS_TEXT}", new.expires_days);
    let desk = Desk::open(&new.data_dir, new.database.as_deref(), new.json).await?;
    let owner = match &new.user {
        Some(name) => Some(users::find(&desk, name).await?),
        None => None,
    };
    let allowed = owner.as_ref().map_or(new.role, |owner| owner.role.min(new.role));
    let scopes: Option<Scopes> = match new.scope.is_empty() {
        true => None,
        false => Some(
            new.scope
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>()
                .try_into()
                .map_err(anyhow::Error::msg)?,
        ),
    };
    if let Some(scope) = scopes.as_ref().and_then(|scopes| scopes.beyond(allowed)) {
        anyhow::bail!(
            "--scope {scope} needs the role {}, and this token has {allowed}",
            scope.rank()
        );
    }
    let secret = token::secret();
    let now = now();
    let wish = NewToken {
        hash: auth::hash(&secret),
        name: new.name,
        user: owner.map(|owner| owner.id),
        role: allowed,
        scopes,
        expires_at: Some(now.plus_seconds(i64::from(new.expires_days) * 24 * 3_600)),
    };
    let work = desk.store.create_token(wish, now);
    let token = desk.act("token new", work, |token| token.id.to_string()).await?;
    let text = secret.reveal().to_owned();
    // Alone on its line, so that a script can take it as it is.
    desk.say(&Issued { token, secret }, &text)
}

async fn list(desk: &Desk) -> anyhow::Result<()> {
    let tokens = all(|paging| async move { desk.store.tokens(None, &paging).await }).await?;
    if desk.is_json {
        return print_line(&serde_json::to_string(&tokens).context("cannot write JSON")?);
    }
    let now = now();
    let row = |token: &Token| {
        let state = match (token.revoked_at, token.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(end)) if end <= now => "expired",
            (None, _) => "valid",
        };
        let scopes = token.scopes.as_ref().map_or_else(|| "all".to_owned(), Scopes::to_string);
        [
            token.name.clone(),
            token.user_name.clone().unwrap_or_else(|| "-".to_owned()),
            token.role.to_string(),
            scopes,
            state.to_owned(),
            moment(token.expires_at),
            moment(token.last_used_at),
            token.id.to_string(),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    let head = ["NAME", "OWNER", "ROLE", "SCOPES", "STATE", "EXPIRES", "LAST USED", "ID"];
    table::lines(&head, &rows).iter().try_for_each(|line| print_line(line))
}
