//! Site policies on their way from their authors to sites: compiled by a child process that can do nothing but compute, asked what
//! their fixtures say, signed, and kept as content.
//!
//! What was uploaded stays, as a bundle, so that it can be compiled again for engines that agents come to have. `wasmtime` is in
//! the child alone: whatever a component does to a compiler, the controller goes on.

use std::collections::BTreeSet;
#[cfg(feature = "compile")]
use std::path::PathBuf;
#[cfg(feature = "compile")]
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::TryStreamExt;
use pureboot_plugin_author::bundle::{BESIDE_LEN_MAX, Bundle};
use pureboot_plugin_author::description::Description;
use pureboot_plugin_author::fixture::Report;
#[cfg(feature = "compile")]
use pureboot_plugin_author::made;
use pureboot_plugin_host::package;
use pureboot_protocol::{ContentHash, ContentKey, EngineId, package_key};
#[cfg(feature = "compile")]
use tokio::sync::Semaphore;

use crate::content::{Condition, ObjectError, ReceiveError, Upload, receive};
use crate::router::App;
use crate::serve::Progress;
use crate::store::{KeptVersion, NewVersion, StoreError, Uncompiled, bundle_key};

/// The largest component where the operator has not said otherwise, in bytes: JavaScript with its engine has 2 MB.
pub(crate) const COMPONENT_LEN_MAX: usize = 4 << 20;

/// What the program is called with to compile what comes on its standard input; no operator's command.
pub(crate) const CHILD: &str = "compile-plugin-from-stdin";

/// Why a policy is not taken. Whoever has sent it reads this text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    /// Its author has to mend it.
    #[error("{0}")]
    Fault(String),
    /// Another one is being compiled.
    #[error("another plugin is being compiled, try again")]
    #[cfg_attr(not(feature = "compile"), expect(dead_code, reason = "this program compiles none"))]
    Busy,
    /// This program has no compiler.
    #[error(
        "this controller was built without the compiler for plugins (the feature `compile`); upload to one that has it"
    )]
    #[cfg_attr(feature = "compile", expect(dead_code, reason = "this program has the compiler"))]
    NoCompiler,
    /// Its bytes are not kept.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// Its bytes cannot be read.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The database says no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was kept is not what was sent.
    #[error("{0}")]
    Spoilt(String),
}

/// Where policies are compiled. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    /// One at a time: it is work for a processor.
    #[cfg(feature = "compile")]
    place: Arc<Semaphore>,
    /// The largest component, in bytes.
    pub(crate) component_len_max: usize,
    /// The program that compiles; none: this process, which tests are.
    #[cfg(feature = "compile")]
    program: Option<PathBuf>,
}

impl Workshop {
    /// One that compiles components of at most so many bytes in a process of this program.
    pub(crate) fn new(component_len_max: usize) -> Self {
        Self {
            #[cfg(feature = "compile")]
            place: Arc::new(Semaphore::new(1)),
            component_len_max,
            #[cfg(feature = "compile")]
            program: Some(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into())),
        }
    }

    /// One that compiles within this process.
    #[cfg(test)]
    pub(crate) fn here() -> Self {
        Self {
            #[cfg(feature = "compile")]
            program: None,
            ..Self::new(COMPONENT_LEN_MAX)
        }
    }

    /// The most bytes of an upload.
    pub(crate) fn upload_len_max(&self) -> usize {
        self.component_len_max + BESIDE_LEN_MAX
    }

    /// The bundle that was uploaded; `alone` is the name and version of a component that comes alone.
    ///
    /// # Errors
    /// It is none, or its component is too large.
    pub(crate) fn bundle(
        &self,
        bytes: Bytes,
        alone: Option<(package::PluginId, package::Version)>,
    ) -> Result<Bundle, PluginError> {
        let max = self.component_len_max;
        let fault = |error: pureboot_plugin_author::bundle::BundleError| {
            PluginError::Fault(error.to_string())
        };
        let bundle = match alone {
            Some((name, version)) if Bundle::is_wasm(&bytes) => {
                Bundle::of_wasm(name, version, bytes.into())
            }
            Some(_) => {
                let text =
                    "name and version are for WebAssembly alone: a bundle has them in policy.json";
                return Err(PluginError::Fault(text.to_owned()));
            }
            None => Bundle::parse(&bytes, max).map_err(fault)?,
        };
        let len = bundle.wasm.len();
        if len > max {
            return Err(PluginError::Fault(format!(
                "the component has {len} bytes, and {max} are taken: build it with opt-level=\"z\" and strip it, or let the \
                 controller take more with --plugin-max-mb"
            )));
        }
        Ok(bundle)
    }
}

/// What was compiled.
struct Compiled {
    description: Description,
    wasm: ContentHash,
    wasm_bytes: u64,
    fixtures: Vec<Report>,
    codes: Vec<(EngineId, Vec<u8>)>,
}

#[cfg(not(feature = "compile"))]
async fn compile(_: &App, _: &Bundle, _: BTreeSet<EngineId>) -> Result<Compiled, PluginError> {
    Err(PluginError::NoCompiler)
}

/// Has a bundle compiled for those of `engines` that this release compiles for.
#[cfg(feature = "compile")]
async fn compile(
    app: &App,
    bundle: &Bundle,
    engines: BTreeSet<EngineId>,
) -> Result<Compiled, PluginError> {
    let Ok(_place) = app.workshop.place.clone().try_acquire_owned() else {
        return Err(PluginError::Busy);
    };
    let names: Vec<_> = engines.iter().map(ToString::to_string).collect();
    let program = app.workshop.program.clone();
    let bundle = bundle.clone();
    let make = move || match program {
        None => made::make(&bundle, &names),
        Some(program) => {
            let mut command = std::process::Command::new(program);
            command.arg(CHILD).args(&names);
            made::in_child(command, &bundle.emit()?)
        }
    };
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.map_err(|error| PluginError::Spoilt(error.to_string()))?;
    let made = made.map_err(|fault| PluginError::Fault(fault.to_string()))?;
    Ok(Compiled {
        description: made.description,
        wasm: made.wasm,
        wasm_bytes: made.wasm_len,
        fixtures: made.fixtures,
        codes: engines.into_iter().zip(made.codes).collect(),
    })
}

/// The engines that this release compiles for.
#[cfg(feature = "compile")]
fn known_engines() -> BTreeSet<EngineId> {
    let names = pureboot_plugin_host::engine::COMPILED_FOR;
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

#[cfg(not(feature = "compile"))]
fn known_engines() -> BTreeSet<EngineId> {
    BTreeSet::new()
}

/// Takes a bundle in: compiles it for what agents run, asks its fixtures, and keeps it as a version, which sites are given at once if
/// `activates`. Answers whether it is new.
///
/// # Errors
/// It is not what a site would run, or cannot be kept.
pub(crate) async fn take(
    app: &App,
    bundle: Bundle,
    activates: bool,
    by: &str,
) -> Result<(KeptVersion, bool), PluginError> {
    let reported = app.store.engines().await?;
    let engines = known_engines().intersection(&reported).cloned().collect();
    let compiled = compile(app, &bundle, engines).await?;
    let new = NewVersion {
        description: &compiled.description,
        wasm: compiled.wasm,
        wasm_bytes: compiled.wasm_bytes,
        fixtures: &compiled.fixtures,
    };
    // The version is claimed first: of two that come at once, the bytes of the one that is refused get no name.
    let is_new = app.store.keep_plugin_version(&new, activates, by, app.now()).await?;
    let (plugin, version) = (&compiled.description.name, compiled.description.version);
    let described = Bundle { description: compiled.description.clone(), ..bundle };
    let bytes = described.emit().map_err(|error| PluginError::Spoilt(error.to_string()))?;
    keep(app, bundle_key(plugin, version), bytes).await?;
    pack(app, &compiled).await?;
    tracing::info!(%plugin, %version, "plugin {plugin} {version} is here, compiled for {} engines", compiled.codes.len());
    Ok((app.store.plugin_version(plugin, version).await?, is_new))
}

/// Compiles for engines that agents have come to report what sites are assigned.
///
/// # Errors
/// Something cannot be compiled or kept; the text says what.
pub(crate) async fn compile_missing(app: &App) -> Result<(), PluginError> {
    let known = known_engines();
    for Uncompiled { plugin, version, engine } in app.store.uncompiled().await? {
        if !known.contains(&engine) {
            let compiled: Vec<_> = known.iter().map(EngineId::as_str).collect();
            tracing::warn!(
                %plugin, %version, %engine,
                "agents run {engine}, and this controller compiles for {}: bring both to the same release", compiled.join(" and ")
            );
            continue;
        }
        let bytes = fetch(app, &bundle_key(&plugin, version)).await?;
        let Some(bytes) = bytes else {
            tracing::error!(%plugin, %version, "the bundle of plugin {plugin} {version} is gone: upload it again");
            continue;
        };
        let bundle = Bundle::parse(&bytes, usize::MAX)
            .map_err(|error| PluginError::Spoilt(format!("plugin {plugin} {version}: {error}")))?;
        let compiled = compile(app, &bundle, [engine.clone()].into()).await?;
        pack(app, &compiled).await?;
        tracing::info!(%plugin, %version, %engine, "compiled plugin {plugin} {version} for {engine}");
    }
    Ok(())
}

/// Signs the packages of what was compiled, and keeps them.
async fn pack(app: &App, compiled: &Compiled) -> Result<(), PluginError> {
    let Compiled { description, wasm, codes, .. } = compiled;
    for (engine, code) in codes {
        let header = description.header(engine.as_str(), *wasm);
        let sign = |bytes: &[u8]| app.content.signer.sign_package(bytes);
        let bytes = package::emit(&header, code, sign)
            .map_err(|error| PluginError::Fault(error.to_string()))?;
        keep(app, package_key(&description.name, description.version, engine), bytes).await?;
    }
    Ok(())
}

async fn keep(app: &App, key: ContentKey, bytes: Vec<u8>) -> Result<(), PluginError> {
    let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let upload = Upload { key, size_bytes, sha256: None, condition: Condition::default() };
    receive(app, &upload, Body::from(bytes), &Progress::default()).await?;
    Ok(())
}

/// The bytes of content that this program has kept itself.
async fn fetch(app: &App, key: &ContentKey) -> Result<Option<Vec<u8>>, PluginError> {
    let Some((_, object)) = app.store.content(key).await? else { return Ok(None) };
    let bytes = app.content.objects.read(&object.location, 0..object.size_bytes).await?;
    let bytes: Vec<Bytes> = bytes.try_collect().await?;
    Ok(Some(bytes.concat()))
}

/// What the child does; `engines` are what it compiles for.
///
/// # Errors
/// As the parent is to hear it.
#[cfg(feature = "compile")]
pub(crate) fn compile_child(engines: &[String]) -> anyhow::Result<()> {
    Ok(made::child(std::io::stdin().lock(), std::io::stdout().lock(), engines)?)
}

#[cfg(not(feature = "compile"))]
pub(crate) fn compile_child(_: &[String]) -> anyhow::Result<()> {
    Err(PluginError::NoCompiler.into())
}
