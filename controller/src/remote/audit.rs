//! `audit`.

use crate::remote::arguments::asks;
use crate::remote::client::Query;
use crate::remote::screen::Column;
use crate::remote::session::most;
use crate::remote::{Answer, Ask};

asks! {
    /// Show who did what to what, the latest first.
    #[argh(subcommand, name = "audit", example = "{command_name} --since 2026-11-01T00:00:00Z --limit 0")]
    struct AuditArguments {
        /// only what this user, token or agent did: a name or an id
        #[argh(option)]
        actor: Option<String>,

        /// only actions that begin so, such as 'DELETE /sites'
        #[argh(option)]
        action: Option<String>,

        /// only what was done to the thing with this id
        #[argh(option)]
        target: Option<String>,

        /// only what was done at this time or later, such as 2026-11-01T00:00:00Z
        #[argh(option)]
        since: Option<String>,

        /// only what was done before this time
        #[argh(option)]
        until: Option<String>,

        /// rows to show, 0 for all (default: 50)
        #[argh(option, default = "50")]
        limit: usize,
    }
}

const COLUMNS: &[Column] = &[
    Column::plain("AT", "at"),
    Column::plain("WHO", "actor.name"),
    Column::plain("ACTION", "action"),
    Column::plain("TARGET", "target"),
    Column::plain("STATUS", "status"),
    Column::plain("FROM", "address"),
    Column::plain("CORRELATION ID", "correlation_id"),
];

impl AuditArguments {
    async fn ask(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let filters = [
            ("actor", self.actor),
            ("action", self.action),
            ("target", self.target),
            ("since", self.since),
            ("until", self.until),
        ];
        let query: Query<'_> =
            filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        session.show_list(&["audit"], query, most(self.limit), COLUMNS).await
    }
}

impl Ask for AuditArguments {
    fn run(self: Box<Self>) -> Answer {
        Box::pin((*self).ask())
    }
}
