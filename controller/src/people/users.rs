//! `user …`.

use anyhow::{Context, bail};
use pureboot_protocol::Secret;

use crate::api::check::Check;
use crate::auth::password::{self, Cost};
use crate::auth::rank::Rank;
use crate::config::people::{
    UserAdd, UserArguments, UserCommand, UserDisable, UserEnable, UserList, UserPasswd, UserRemove,
    UserRole,
};
use crate::people::{Desk, all, moment};
use crate::store::{NewUser, User, UserPatch};
use crate::{now, print_line, table, terminal};

/// Does what is asked.
///
/// # Errors
/// It cannot be done.
pub(crate) async fn run(arguments: UserArguments) -> anyhow::Result<()> {
    match arguments.command {
        UserCommand::Add(add) => self::add(add).await,
        UserCommand::List(UserList { data_dir, database, json }) => {
            list(&Desk::open(&data_dir, database.as_deref(), json).await?).await
        }
        UserCommand::Passwd(passwd) => self::passwd(passwd).await,
        UserCommand::Role(UserRole { name, role, data_dir, database, json }) => {
            let desk = Desk::open(&data_dir, database.as_deref(), json).await?;
            let patch = UserPatch { role: Some(role), disabled: None };
            let user = update(&desk, &name, "user role", patch).await?;
            desk.say(&user, &format!("{} is {} now", user.name, user.role))
        }
        UserCommand::Disable(UserDisable { name, data_dir, database, json }) => {
            let desk = Desk::open(&data_dir, database.as_deref(), json).await?;
            let patch = UserPatch { role: None, disabled: Some(true) };
            let user = update(&desk, &name, "user disable", patch).await?;
            desk.say(
                &user,
                &format!("{} is let in no more; sessions and tokens have ended", user.name),
            )
        }
        UserCommand::Enable(UserEnable { name, data_dir, database, json }) => {
            let desk = Desk::open(&data_dir, database.as_deref(), json).await?;
            let patch = UserPatch { role: None, disabled: Some(false) };
            let user = update(&desk, &name, "user enable", patch).await?;
            desk.say(&user, &format!("{} may sign in again", user.name))
        }
        UserCommand::Remove(UserRemove { name, data_dir, database, json }) => {
            let desk = Desk::open(&data_dir, database.as_deref(), json).await?;
            let id = find(&desk, &name).await?.id;
            let work = desk.store.delete_user(id);
            let user = desk.act("user remove", work, |user| user.id.to_string()).await?;
            desk.say(&user, &format!("the account of {} is gone", user.name))
        }
    }
}

async fn add(add: UserAdd) -> anyhow::Result<()> {
    let desk = Desk::open(&add.data_dir, add.database.as_deref(), add.json).await?;
    let mut check = Check::default();
    check.user_name("name", &add.name);
    check.done()?;
    let password = terminal::password(&add.name, add.password_file.as_deref())?;
    let role = if add.admin { Rank::Admin } else { add.role };
    let password = hash(&add.name, &password)?;
    let new = NewUser { name: add.name, password, role };
    let work = desk.store.create_user(new, now());
    let user = desk.act("user add", work, |user| user.id.to_string()).await?;
    desk.say(&user, &format!("{} may sign in as {}", user.name, user.role))
}

async fn list(desk: &Desk) -> anyhow::Result<()> {
    let users = all(|paging| async move { desk.store.users(&paging).await }).await?;
    if desk.is_json {
        return print_line(&serde_json::to_string(&users).context("cannot write JSON")?);
    }
    let row = |user: &User| {
        let state = if user.disabled { "disabled" } else { "enabled" };
        let (role, seen) = (user.role.to_string(), moment(user.last_login_at));
        [user.name.clone(), role, state.to_owned(), seen, user.id.to_string()]
    };
    let rows: Vec<_> = users.iter().map(row).collect();
    let lines = table::lines(&["NAME", "ROLE", "STATE", "LAST LOGIN", "ID"], &rows);
    lines.iter().try_for_each(|line| print_line(line))
}

async fn passwd(passwd: UserPasswd) -> anyhow::Result<()> {
    let desk = Desk::open(&passwd.data_dir, passwd.database.as_deref(), passwd.json).await?;
    let user = find(&desk, &passwd.name).await?;
    let password = terminal::password(&user.name, passwd.password_file.as_deref())?;
    let password = hash(&user.name, &password)?;
    let work = desk.store.set_password(user.id, &password, now());
    let user = desk.act("user passwd", work, |user| user.id.to_string()).await?;
    desk.say(&user, &format!("{} has another password; all sessions have ended", user.name))
}

async fn update(desk: &Desk, name: &str, action: &str, patch: UserPatch) -> anyhow::Result<User> {
    let id = find(desk, name).await?.id;
    let work = desk.store.update_user(id, patch, now());
    desk.act(action, work, |user| user.id.to_string()).await
}

/// The account with a name.
pub(super) async fn find(desk: &Desk, name: &str) -> anyhow::Result<User> {
    match desk.store.user_named(name).await? {
        Some((user, _)) => Ok(user),
        None => bail!("there is nobody called '{name}'; `user list` shows everybody"),
    }
}

fn hash(name: &str, password: &Secret) -> anyhow::Result<String> {
    match password::fault(name, password) {
        Some(fault) => bail!("the password: {fault}"),
        None => Ok(Cost::OWASP.hash(password)),
    }
}
