//! The log on stderr.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts to write the log of this process. `RUST_LOG` chooses what is logged, by default what an operator reads.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    // A second start within one process finds the first one's log, which is as good.
    drop(started);
}
