//! `user …` and `token …`: people and tokens, from the controller's own machine.

use std::path::PathBuf;

use argh::FromArgs;

use crate::auth::rank::Rank;
use crate::auth::scope::Scope;
use crate::auth::token;

/// Declares the arguments of a command that works on the database: its own, and those that say which database and how the
/// outcome is printed.
macro_rules! on_database {
    ($(#[$($meta:tt)*])* struct $name:ident { $($fields:tt)* }) => {
        #[derive(Debug, FromArgs)]
        $(#[$($meta)*])*
        pub(crate) struct $name {
            $($fields)*

            /// the controller's data directory; the controller may be running
            #[argh(option)]
            pub(crate) data_dir: PathBuf,

            /// where the database is, as for serve
            #[argh(option)]
            pub(crate) database: Option<String>,

            /// print JSON
            #[argh(switch)]
            pub(crate) json: bool,
        }
    };
}

/// Look after the people who may sign in.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "user",
    example = "{command_name} add --admin ada --data-dir /var/lib/pureboot"
)]
pub struct UserArguments {
    #[argh(subcommand)]
    pub(crate) command: UserCommand,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
pub(crate) enum UserCommand {
    Add(UserAdd),
    List(UserList),
    Passwd(UserPasswd),
    Role(UserRole),
    Disable(UserDisable),
    Enable(UserEnable),
    Remove(UserRemove),
}

on_database! {
    /// Make an account. The password is asked for, or read from a file or a pipe.
    #[argh(subcommand, name = "add")]
    struct UserAdd {
        /// the name to sign in with
        #[argh(positional)]
        pub(crate) name: String,

        /// what the person may do: viewer, operator or admin (default: viewer)
        #[argh(option, default = "Rank::Viewer")]
        pub(crate) role: Rank,

        /// the same as --role admin
        #[argh(switch)]
        pub(crate) admin: bool,

        /// file with the password in its first line; without it the terminal is asked, or a pipe on stdin is read
        #[argh(option)]
        pub(crate) password_file: Option<PathBuf>,
    }
}

on_database! {
    /// List the accounts.
    #[argh(subcommand, name = "list")]
    struct UserList {}
}

on_database! {
    /// Give somebody another password; all sessions of that person end.
    #[argh(subcommand, name = "passwd")]
    struct UserPasswd {
        /// whose
        #[argh(positional)]
        pub(crate) name: String,

        /// file with the password in its first line; without it the terminal is asked, or a pipe on stdin is read
        #[argh(option)]
        pub(crate) password_file: Option<PathBuf>,
    }
}

on_database! {
    /// Let somebody do more or less.
    #[argh(subcommand, name = "role")]
    struct UserRole {
        /// who
        #[argh(positional)]
        pub(crate) name: String,

        /// viewer, operator or admin
        #[argh(positional)]
        pub(crate) role: Rank,
    }
}

on_database! {
    /// Let somebody in no more; all sessions and tokens of that person end at once and for good.
    #[argh(subcommand, name = "disable")]
    struct UserDisable {
        /// whom
        #[argh(positional)]
        pub(crate) name: String,
    }
}

on_database! {
    /// Let somebody in again.
    #[argh(subcommand, name = "enable")]
    struct UserEnable {
        /// whom
        #[argh(positional)]
        pub(crate) name: String,
    }
}

on_database! {
    /// Remove an account with its sessions and tokens.
    #[argh(subcommand, name = "remove")]
    struct UserRemove {
        /// whose
        #[argh(positional)]
        pub(crate) name: String,
    }
}

/// Look after the API tokens that programs call with.
#[derive(Debug, FromArgs)]
#[argh(
    subcommand,
    name = "token",
    example = "{command_name} new --name backup --role viewer --data-dir /var/lib/pureboot"
)]
pub struct TokenArguments {
    #[argh(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, FromArgs)]
#[argh(subcommand)]
pub(crate) enum TokenCommand {
    New(TokenNew),
    List(TokenList),
    Revoke(TokenRevoke),
}

on_database! {
    /// Make an API token and print it, this once.
    #[argh(subcommand, name = "new")]
    struct TokenNew {
        /// what it is for (default: command line)
        #[argh(option, default = "String::from(\"command line\")")]
        pub(crate) name: String,

        /// what it may do: viewer, operator or admin (default: operator)
        #[argh(option, default = "Rank::Operator")]
        pub(crate) role: Rank,

        /// limit it to this part of what the role may do: read, nodes:write, sites:write, content:write or admin; can be repeated
        #[argh(option)]
        pub(crate) scope: Vec<Scope>,

        /// days until it ends, 1 to 3650 (default: 90)
        #[argh(option, default = "token::DAYS_DEFAULT")]
        pub(crate) expires_days: u32,

        /// the person that it belongs to and ends with; without it, it belongs to nobody
        #[argh(option)]
        pub(crate) user: Option<String>,
    }
}

on_database! {
    /// List the tokens. The secrets themselves are known to nobody here.
    #[argh(subcommand, name = "list")]
    struct TokenList {}
}

on_database! {
    /// End a token at once.
    #[argh(subcommand, name = "revoke")]
    struct TokenRevoke {
        /// its id, as `token list` shows it
        #[argh(positional)]
        pub(crate) id: String,
    }
}
