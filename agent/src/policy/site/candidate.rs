//! A policy that is not assigned, for boots of the past to be played with: as a package that the controller has signed, or compiled and
//! sealed on this host.

use std::rc::Rc;
use std::sync::Arc;

use pureboot_plugin_host::facts::NodeCache;
use pureboot_plugin_host::package::{DOMAIN, Header, Unchecked};
use pureboot_plugin_host::plugin::Plugin;
use pureboot_plugin_host::seal::{Found, KEY_LEN, Sealed, SealedFiles};

use super::SitePolicies;
use super::load::SiteNodes;
use crate::sync::keeper::pinned_key;

impl SitePolicies {
    /// The policy of a signed package, or that of a header in JSON whose code was sealed on this host. It decides nothing.
    ///
    /// # Errors
    /// It is not run here; the text says why.
    pub async fn candidate(&self, bytes: &[u8]) -> Result<Rc<Plugin>, String> {
        match bytes.starts_with(DOMAIN) {
            true => self.signed(bytes).await,
            false => self.sealed(bytes).await,
        }
        .map(Rc::new)
    }

    async fn signed(&self, bytes: &[u8]) -> Result<Plugin, String> {
        let data_dir = self.parts.data_dir.clone();
        let key = smol::unblock(move || pinned_key(&data_dir)).await;
        let key = key.map_err(|error| format!("{error:#}"))?;
        let package = Unchecked::parse(bytes).map_err(|error| error.to_string())?;
        let signed = package.check(&[key]).map_err(|error| error.to_string())?;
        let engine = self.engine().map_err(|error| error.to_string())?;
        let plugin = Plugin::load(engine, &signed, Some(self.nodes())).await;
        plugin.map_err(|error| error.to_string())
    }

    async fn sealed(&self, bytes: &[u8]) -> Result<Plugin, String> {
        let header: Header = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is neither a package nor a header: {error}"))?;
        let (dir, wasm) = (self.parts.data_dir.sealed_policies(), header.wasm);
        let (files, found) = smol::unblock(move || {
            let mut random = [0; KEY_LEN];
            getrandom::fill(&mut random).map_err(std::io::Error::other)?;
            let files = SealedFiles::open(&dir, random)?;
            let found = files.find(wasm)?;
            std::io::Result::Ok((files, found))
        })
        .await
        .map_err(|error| format!("what was compiled here cannot be read: {error}"))?;
        let sealed: Sealed = match found {
            Found::Sealed(sealed) => sealed,
            Found::Nothing => {
                return Err(format!("component {wasm} was not compiled on this host"));
            }
            Found::Foreign(path) => {
                let path = path.display();
                log::error!("{path} was not sealed by this host, and is deleted");
                return Err(format!("{path} was not sealed by this host, and is deleted"));
            }
        };
        let code = files.code(&sealed).ok_or("its seal is broken")?;
        let engine = self.engine().map_err(|error| error.to_string())?;
        let plugin = Plugin::load_code(engine, header, code, Some(self.nodes())).await;
        plugin.map_err(|error| error.to_string())
    }

    pub(super) fn nodes(&self) -> Arc<dyn NodeCache> {
        Arc::new(SiteNodes(self.parts.store.clone()))
    }
}
