//! What every command that asks a controller takes beside its own arguments.

use std::path::PathBuf;

/// Which controller is asked, as whom, and how the answer is printed.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub(crate) url: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) is_json: bool,
}

/// Declares the arguments of a command that asks a controller: its own, and those of [`Connection`], which `session` opens.
macro_rules! asks {
    ($(#[$($meta:tt)*])* struct $name:ident { $($fields:tt)* }) => {
        #[derive(Debug, argh::FromArgs)]
        $(#[$($meta)*])*
        pub(crate) struct $name {
            $($fields)*

            /// the controller (default: $PUREBOOT_URL, or else http://127.0.0.1:8000)
            #[argh(option)]
            url: Option<String>,

            /// file with the API token (default: the token in $PUREBOOT_TOKEN, or else the file $PUREBOOT_TOKEN_FILE)
            #[argh(option)]
            token_file: Option<std::path::PathBuf>,

            /// take the token from operator-token in the data directory of a controller on this machine
            #[argh(option)]
            data_dir: Option<std::path::PathBuf>,

            /// certificate authority in PEM to believe in place of the system's (default: $PUREBOOT_CA_FILE)
            #[argh(option)]
            ca_file: Option<std::path::PathBuf>,

            /// print the API's data as JSON
            #[argh(switch)]
            json: bool,
        }

        impl $name {
            fn session(&self) -> anyhow::Result<$crate::remote::session::Session> {
                $crate::remote::session::Session::open($crate::remote::arguments::Connection {
                    url: self.url.clone(),
                    token_file: self.token_file.clone(),
                    data_dir: self.data_dir.clone(),
                    ca_file: self.ca_file.clone(),
                    is_json: self.json,
                })
            }
        }
    };
}

/// Declares a noun: its verbs, each with the arguments that it takes, and how it is done.
macro_rules! noun {
    ($(#[$($meta:tt)*])* $arguments:ident, $command:ident { $($verb:ident($verb_arguments:ident)),+ $(,)? }) => {
        #[derive(Debug, argh::FromArgs)]
        $(#[$($meta)*])*
        pub(crate) struct $arguments {
            #[argh(subcommand)]
            command: $command,
        }

        #[derive(Debug, argh::FromArgs)]
        #[argh(subcommand)]
        enum $command {
            $($verb($verb_arguments)),+
        }

        impl $crate::remote::Ask for $arguments {
            fn run(self: Box<Self>) -> $crate::remote::Answer {
                match self.command {
                    $($command::$verb(arguments) => Box::pin(arguments.run())),+
                }
            }
        }
    };
}

pub(crate) use {asks, noun};
