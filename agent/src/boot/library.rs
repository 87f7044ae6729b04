//! What machines can read by TFTP: the cache's content, and the first script.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use pureboot_protocol::{Category, ContentKey};
use pureboot_templates::BaseUrl;

use crate::boot::booter::Booter;
use crate::cache::{Cache, Object};
use crate::tftp::serve::{Library, Request, Source};

/// What iPXE asks for of its own accord, in the directory that it was loaded from.
const AUTOEXEC: &str = "autoexec.ipxe";

/// Names by TFTP against content.
pub struct BootLibrary {
    /// Makes the first script.
    pub booter: Rc<Booter>,
    /// Holds the rest.
    pub cache: Cache,
    /// Where scripts send machines, at the address that they asked by TFTP.
    pub http_port: u16,
}

/// A file by TFTP.
pub enum BootFile {
    /// Made for this request.
    Script(Vec<u8>),
    /// From the cache.
    Content(Object),
}

impl Library for BootLibrary {
    type Source = BootFile;

    async fn find(&self, request: &Request) -> Option<BootFile> {
        if request.name.as_str().rsplit('/').next() == Some(AUTOEXEC) {
            let base = BaseUrl::from(SocketAddr::new(request.local, self.http_port));
            return Some(BootFile::Script(self.booter.autoexec(base).into_bytes()));
        }
        self.cache.find(&key(request.name.as_str())?).await.map(BootFile::Content)
    }
}

/// The content that a name stands for. A name without category is a loader's: firmware has little room for names.
fn key(name: &str) -> Option<ContentKey> {
    name.parse().or_else(|_| ContentKey::new(Category::Bootloaders, name)).ok()
}

impl Source for BootFile {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Script(script) => u64::try_from(script.len()).unwrap_or(u64::MAX),
            Self::Content(object) => object.size_bytes,
        }
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Script(script) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(script.len());
                let end = start.saturating_add(len).min(script.len());
                Ok(script.get(start..end).unwrap_or_default().to_vec())
            }
            Self::Content(object) => object.read_at(offset, len).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f14_a_bare_name_is_a_loader_and_a_category_is_obeyed() {
        for (name, expected) in [
            ("undionly.kpxe", Some("bootloaders/undionly.kpxe")),
            ("sb/shimx64.efi", Some("bootloaders/sb/shimx64.efi")),
            ("images/debian/linux", Some("images/debian/linux")),
            ("bootloaders/ipxe.efi", Some("bootloaders/ipxe.efi")),
            ("../agent.toml", None),
            ("bootloaders/../agent.toml", None),
            ("", None),
        ] {
            assert_eq!(key(name).map(|key| key.to_string()).as_deref(), expected, "{name}");
        }
    }
}
