//! What machines can read by TFTP: the cache's content, and the first script.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use pureboot_protocol::{Category, ContentKey};
use pureboot_templates::BaseUrl;

use crate::boot::booter::Booter;
use crate::cache::{Cache, Object};
use crate::session::recorder::Recorder;
use crate::session::step::{Ending, Protocol, Role, Transfer};
use crate::sync::demand::{Demand, Found};
use crate::tftp::limits::Weight;
use crate::tftp::name::Name;
use crate::tftp::serve::{Finished, Identity, Library, Request, Source};
use crate::tftp::transfer::Outcome;

/// What iPXE asks for of its own accord, in the directory that it was loaded from.
const AUTOEXEC: &str = "autoexec.ipxe";

/// Names by TFTP against content.
pub struct BootLibrary {
    /// Makes the first script.
    pub booter: Rc<Booter>,
    /// Holds the rest, or has it fetched.
    pub demand: Rc<Demand>,
    /// Knows the names of what is held.
    pub cache: Cache,
    /// Hears what machines read.
    pub recorder: Rc<Recorder>,
    /// Where scripts send machines, at the address that they asked by TFTP.
    pub http_port: u16,
    /// Whether a file is found also where only the case of its name's letters differs.
    pub ignore_case: bool,
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

    async fn find(&self, request: &Request) -> io::Result<Option<BootFile>> {
        let (name, address) = (request.name.as_str(), request.peer.ip());
        if is_autoexec(name) {
            let base = BaseUrl::from(SocketAddr::new(request.local, self.http_port));
            let (session, step) = self.recorder.begin_first_script(address, Protocol::Tftp, name);
            self.recorder.note_open(request.peer, step);
            let script = self.booter.autoexec(base, session, None).into_bytes();
            return Ok(Some(BootFile::Script(script)));
        }
        let key = key(name).map(|key| self.in_case(key));
        let found = match &key {
            Some(key) => self.demand.find_briefly(key).await?,
            None => Found::Unknown,
        };
        match (key, found) {
            (Some(key), Found::Here(object)) => {
                let role = role(&key);
                let transfer = Transfer::new(Protocol::Tftp, role, name, Some(object.size_bytes));
                let step = self.recorder.begin_transfer(None, address, transfer);
                self.recorder.note_open(request.peer, step);
                Ok(Some(BootFile::Content(object)))
            }
            // The machine asks again, and finds what has come meanwhile.
            (_, Found::Later | Found::Coming(..)) => Err(io::ErrorKind::WouldBlock.into()),
            _ => {
                self.recorder.note_missing(None, address, Protocol::Tftp, name);
                Ok(None)
            }
        }
    }

    fn weigh(name: &Name) -> Weight {
        let name = name.as_str();
        match key(name).map(|key| role(&key)) {
            Some(Role::Content) if !is_autoexec(name) => Weight::Content,
            // What nothing is called is answered with an error, which takes no room.
            _ => Weight::Loader,
        }
    }

    fn handle_finished(&self, finished: &Finished) {
        let Finished { request, outcome, tally, .. } = finished;
        let ending = match outcome {
            // Machines do not wait to see their last ACK arrive.
            Outcome::Complete | Outcome::Unconfirmed => Ending::Whole,
            Outcome::Probe => Ending::Probe,
            Outcome::Refused(_) => Ending::Cut,
            Outcome::Silent => Ending::Silent,
            Outcome::Displaced => Ending::Displaced,
            Outcome::ReadFailed => Ending::Unread,
        };
        let sent_bytes = match ending {
            Ending::Whole => finished.size_bytes,
            _ => tally.acked_bytes,
        };
        self.recorder.end_transfer_to(request.peer, ending, sent_bytes);
    }
}

impl BootLibrary {
    /// `key`, or where the cache does not know it and the site wants that, the name in it that differs in case alone.
    fn in_case(&self, key: ContentKey) -> ContentKey {
        if !self.ignore_case || self.cache.named(&key).is_some() {
            return key;
        }
        self.cache.name_ignoring_case(&key).unwrap_or(key)
    }
}

/// What a file is to the machine that asks for it.
pub(super) fn role(key: &ContentKey) -> Role {
    match key.category() {
        Category::Bootloaders => Role::Loader,
        Category::Scripts
        | Category::Templates
        | Category::Plugins
        | Category::Agents
        | Category::Images => Role::Content,
    }
}

fn is_autoexec(name: &str) -> bool {
    name.rsplit('/').next() == Some(AUTOEXEC)
}

/// The content that a name stands for. A name without category is a loader's: firmware has little room for names.
pub(crate) fn key(name: &str) -> Option<ContentKey> {
    name.parse().or_else(|_| ContentKey::new(Category::Bootloaders, name)).ok()
}

impl Source for BootFile {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Script(script) => u64::try_from(script.len()).unwrap_or(u64::MAX),
            Self::Content(object) => object.size_bytes,
        }
    }

    fn identity(&self) -> Option<Identity> {
        match self {
            Self::Script(_) => None,
            Self::Content(object) => Some(*object.sha256.as_bytes()),
        }
    }

    fn read_now(&self, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Script(script) => Ok(Some(part(script, offset, len).to_vec())),
            Self::Content(object) => object.read_now(offset, len),
        }
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Script(script) => Ok(part(script, offset, len).to_vec()),
            Self::Content(object) => object.read_at(offset, len).await,
        }
    }
}

fn part(script: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(script.len());
    let end = start.saturating_add(len).min(script.len());
    script.get(start..end).unwrap_or_default()
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

    #[test]
    fn loaders_and_the_first_script_are_told_from_large_files_by_their_names() {
        for (name, weight) in [
            ("undionly.kpxe", Weight::Loader),
            ("sb/shimx64.efi", Weight::Loader),
            ("bootloaders/grubx64.efi", Weight::Loader),
            ("sb/revocations_sbat.efi", Weight::Loader),
            ("images/debian/autoexec.ipxe", Weight::Loader),
            ("images/debian/linux", Weight::Content),
            ("templates/a", Weight::Content),
        ] {
            let parsed = Name::parse(name.as_bytes()).expect(name);
            assert_eq!(BootLibrary::weigh(&parsed), weight, "{name}");
        }
    }
}
