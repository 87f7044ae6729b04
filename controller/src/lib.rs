//! The centre of PureBoot: REST API and database for many sites.
//!
//! A request comes in by `serve`, passes the layers and the guard of `router`, where every route stands on one page with
//! who may call it, and reaches its handler in `api`. Handlers take their arguments by `extract`, refuse with `error`,
//! and reach the database by `store` only; `auth` knows who calls, `audit` keeps what they did, `limit` how much of it.
//! `people` is what of that can be done at the command line of the controller's own machine; `remote` asks a running controller
//! from any machine, and knows of the rest only what the API says. `inside` is a controller without sockets, for a simulation. `plugins` has site policies compiled. `metrics` is what those read who watch over it. What a node may do is decided in `node`, and how a
//! site is in `site_health`, which know neither.

pub mod config;

mod answer;
mod api;
mod audit;
mod auth;
mod backup;
mod beats;
mod callers;
mod claim;
mod coding;
mod conflict;
mod content;
mod cookie;
mod correlation;
mod data_dir;
mod error;
mod extract;
mod forwarded;
mod guard;
pub mod inside;
mod jobs;
mod limit;
mod log;
mod metrics;
mod node;
mod once;
mod openapi;
mod people;
mod plugins;
mod random;
mod remote;
mod router;
mod serve;
mod site_health;
mod store;
mod strict;
mod table;
mod tenure;
mod terminal;
mod tls;
mod together;
mod vault;

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use pureboot_protocol::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, Database, LogFormat, ServeConfig};
use crate::content::Content;
use crate::cookie::Cookie;
use crate::data_dir::{DataDir, OperatorToken};
use crate::forwarded::Proxies;
use crate::jobs::Jobs;
use crate::plugins::Workshop;
use crate::router::App;
use crate::store::Store;
use crate::vault::Vault;

/// Does what `config` says, and returns when that is done.
///
/// # Errors
/// It cannot be done; the text says what stands in the way.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match config {
        Config::Serve(config) => runtime.block_on(serve_until_signal(config)),
        Config::User(arguments) => runtime.block_on(people::run_user(arguments)),
        Config::Token(arguments) => runtime.block_on(people::run_token(arguments)),
        Config::Ask(ask) => quietly(runtime.block_on(ask.run())),
        Config::Backup(arguments) => runtime.block_on(backup::run_backup(arguments)),
        Config::Restore(arguments) => {
            log::init(LogFormat::Text);
            runtime.block_on(backup::run_restore(arguments))
        }
    }
}

/// Compiles one plugin, where the arguments say that this process was started for that: the bytes come and go by the standard
/// streams, and nothing is done but to compute.
pub fn compile_child(arguments: &[OsString]) -> Option<anyhow::Result<()>> {
    let (first, engines) = arguments.split_first()?;
    (first == plugins::CHILD).then(|| {
        let engines: Vec<_> =
            engines.iter().map(|engine| engine.to_string_lossy().into_owned()).collect();
        plugins::compile_child(&engines)
    })
}

/// Whoever reads no further, as `head` does, has what it wanted.
fn quietly(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    outcome.or_else(|error| match error.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

async fn serve_until_signal(config: ServeConfig) -> anyhow::Result<()> {
    log::init(config.log_format);
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let data_dir = DataDir::make(&config.data_dir)?;
    let _lock = data_dir.lock()?;
    let keys = [config.content.signing_key_file.as_path(), &config.secrets_key_file];
    backup::finish_restore(&config.data_dir, &keys, config.database.as_ref())?;
    let store = open(&data_dir, config.database.as_ref()).await?;
    let content = Content::open(&config.content, &store).await?;
    let vault = Vault::load(&config.secrets_key_file, config.replaces_secrets_key, &store).await?;
    let (listener, address) = listen(config.listen).await?;
    let watched = match config.metrics_listen {
        Some(wanted) => Some(listen(wanted).await?),
        None => None,
    };
    if let Some(OperatorToken { secret, file }) = data_dir.first_token(&store, now()).await? {
        let kept = file.display();
        print_line(&format!("operator token: {} (kept in {kept})", secret.reveal()))?;
    }
    if !store.has_user().await? {
        let dir = config.data_dir.display();
        print_line(&format!(
            "nobody can sign in yet: `pureboot-controller user add --admin NAME --data-dir {dir}` makes the first admin"
        ))?;
    }
    if tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            "without --tls-cert-file, tokens cross the network to {address} in the clear"
        );
    }
    let cookie = if tls.is_some() { Cookie::Secure } else { Cookie::Plain };
    let app = App::new(store.clone(), content, Arc::new(now), vault)
        .limited(config.limits)
        .with_cookie(cookie);
    let proxies = Proxies::new(config.trusted_proxies);
    let workshop = Workshop::new(config.component_len_max);
    let app = App { kept_days: config.kept_days, proxies: proxies.clone(), workshop, ..app };
    let (jobs, beats) = (Jobs::start(&app), app.beats.clone());
    let (ending, watchers) = watch::channel(false);
    let watched = watched.map(|(listener, address)| {
        let ended = ended(watchers.clone());
        let served =
            serve::serve(listener, None, router::watch(app.clone()), Proxies::default(), ended);
        (tokio::spawn(served), address)
    });
    print_line(&format!("listening on {}", url(address, tls.is_some())))?;
    if let Some((_, address)) = &watched {
        print_line(&format!("metrics on {}/metrics", url(*address, false)))?;
    }
    tracing::info!(%address, "serving on {address}");
    let signalled = async {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("ending on {signal}");
        _ = ending.send(true);
    };
    serve::serve(listener, tls, router::router(app), proxies, signalled).await;
    if let Some((served, _)) = watched {
        _ = served.await;
    }
    jobs.end().await;
    beats.end().await;
    store.close().await;
    Ok(())
}

async fn listen(wanted: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(wanted).await;
    let listener = listener.with_context(|| format!("cannot listen on {wanted}"))?;
    let address = listener.local_addr().context("cannot find out the address listened on")?;
    Ok((listener, address))
}

/// Waits for the end of the program.
async fn ended(mut ending: watch::Receiver<bool>) {
    _ = ending.wait_for(|ending| *ending).await;
}

async fn open(data_dir: &DataDir, database: Option<&Database>) -> anyhow::Result<Store> {
    let database = data_dir.database(database)?;
    if let Database::Server(url) = &database
        && url.is_password_public()
    {
        tracing::warn!(
            "everybody on this machine can read the password of {url} in the list of processes; PUREBOOT_DATABASE hides it"
        );
    }
    let store = Store::open(&database).await;
    store.with_context(|| format!("cannot use the database {database}"))
}

fn url(address: SocketAddr, is_tls: bool) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// stdout carries what a person or a script waits for; everything else is in the log.
fn print_line(line: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// A word for the person at the command line, beside what stdout carries.
fn print_note(line: &str) {
    // The result does not depend on whether anybody reads it.
    _ = writeln!(std::io::stderr(), "pureboot-controller: {line}");
}

fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
}
