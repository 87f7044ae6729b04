//! What the controller does without being asked, one file a job. Of controllers that share a database one at a time does a
//! job: the one that has its lease, which another one takes over when it expires. What a job does can be done twice.

pub(crate) mod agent_status;
pub(crate) mod content_sweep;
pub(crate) mod install_timeout;
pub(crate) mod plugin_packages;
pub(crate) mod retention;

use std::time::Duration;

use pureboot_protocol::Timestamp;
use tokio::task::JoinHandle;

use crate::random;
use crate::router::App;
use crate::store::Store;

/// How many periods a lease lasts: as many in a row may fail before another controller takes over.
const LEASE_PERIODS: u32 = 3;

/// Something that is done again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    AgentStatus,
    InstallTimeout,
    Retention,
    ContentSweep,
    PluginPackages,
}

impl Job {
    const ALL: [Self; 5] = [
        Self::AgentStatus,
        Self::InstallTimeout,
        Self::Retention,
        Self::ContentSweep,
        Self::PluginPackages,
    ];

    /// What it is called in the database and in the log.
    fn as_str(self) -> &'static str {
        match self {
            Self::AgentStatus => "agent_status",
            Self::InstallTimeout => "install_timeout",
            Self::Retention => "retention",
            Self::ContentSweep => "content_sweep",
            Self::PluginPackages => "plugin_packages",
        }
    }

    fn period(self) -> Duration {
        match self {
            Self::AgentStatus => agent_status::PERIOD,
            Self::InstallTimeout => install_timeout::PERIOD,
            Self::Retention => retention::PERIOD,
            Self::ContentSweep => content_sweep::PERIOD,
            Self::PluginPackages => plugin_packages::PERIOD,
        }
    }

    async fn look(self, app: &App, listening_since: Timestamp) -> anyhow::Result<()> {
        match self {
            Self::AgentStatus => agent_status::look(app, listening_since).await?,
            Self::InstallTimeout => install_timeout::look(app).await?,
            Self::Retention => retention::look(app).await?,
            Self::ContentSweep => content_sweep::look(app).await?,
            Self::PluginPackages => plugin_packages::look(app).await?,
        }
        Ok(())
    }
}

/// The jobs of one controller, under way.
pub(crate) struct Jobs {
    store: Store,
    holder: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Jobs {
    /// Starts them all.
    pub(crate) fn start(app: &App) -> Self {
        let holder = format!("{:032x}", u128::from_be_bytes(random::bytes()));
        let start = |job| tokio::spawn(Worker::new(job, app.clone(), holder.clone()).run());
        let tasks = Job::ALL.into_iter().map(start).collect();
        Self { store: app.store.clone(), holder, tasks }
    }

    /// Ends them, and lets another controller go on at once.
    pub(crate) async fn end(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Err(error) = self.store.give_back_leases(&self.holder).await {
            tracing::debug!(error = %error, "cannot give the jobs back, they are free when they expire: {error}");
        }
    }
}

/// One controller at one job.
struct Worker {
    job: Job,
    app: App,
    holder: String,
    has_lease: bool,
    /// Since when this controller and its database have been there for agents.
    listening_since: Timestamp,
}

impl Worker {
    fn new(job: Job, app: App, holder: String) -> Self {
        let listening_since = app.now();
        Self { job, app, holder, has_lease: false, listening_since }
    }

    async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.job.period());
        loop {
            ticks.tick().await;
            let job = self.job.as_str();
            let turn = self.turn().await;
            if self.has_lease {
                self.app.metrics.job(job, turn.is_ok(), self.app.now());
            }
            if let Err(error) = turn {
                tracing::error!(job, error = %error, "the job {job} has to wait: {error}");
                // Without a database nobody could be heard.
                self.listening_since = self.app.now();
            }
        }
    }

    /// Does the job once, if it is this controller's.
    async fn turn(&mut self) -> anyhow::Result<()> {
        let (job, now) = (self.job.as_str(), self.app.now());
        let lease =
            i64::try_from((LEASE_PERIODS * self.job.period()).as_secs()).unwrap_or(i64::MAX);
        let had_lease = self.has_lease;
        self.has_lease =
            self.app.store.lease(job, &self.holder, now, now.plus_seconds(lease)).await?;
        if !self.has_lease {
            return Ok(());
        }
        if !had_lease {
            tracing::info!(job, "the job {job} is this controller's");
        }
        self.job.look(&self.app, self.listening_since).await
    }
}

#[cfg(test)]
mod tests;
