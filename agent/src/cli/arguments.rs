//! What most commands take beside their own arguments.

/// Declares the arguments of a command that works with the data directory: its own, and which directory that is.
macro_rules! placed {
    ($(#[$($meta:tt)*])* $visible:vis struct $name:ident { $($fields:tt)* }) => {
        #[derive(argh::FromArgs, Debug)]
        $(#[$($meta)*])*
        $visible struct $name {
            $($fields)*
            /// directory that holds all that the agent keeps (default: /var/lib/pureboot)
            #[argh(option, default = "crate::cli::default_data_dir()")]
            data_dir: std::path::PathBuf,
        }
    };
}

/// Declares the arguments of a command that shows what the agent of a data directory knows, to people or to programs.
macro_rules! asks {
    ($(#[$($meta:tt)*])* $visible:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::cli::arguments::placed! {
            $(#[$($meta)*])*
            $visible struct $name {
                $($fields)*
                /// print JSON for programs
                #[argh(switch)]
                json: bool,
            }
        }
    };
}

pub(super) use {asks, placed};
