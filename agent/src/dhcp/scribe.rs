//! Writes down what ProxyDHCP learns and whom it does not serve: for `status`, for the log, and over a restart.
//!
//! The answering task only changes memory; a task of its own writes the file, at most once in ten seconds.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};

use super::answer::{Boot, IpxeSign, Reason};
use super::lessons::Lessons;
use super::notices::{NoticeKind, Notices};
use super::serve::{Event, Observer};
use crate::{clock, data_dir};

/// Between two writes of the file.
const SAVE_REST: Duration = Duration::from_secs(10);

/// What was written down.
#[derive(Debug, Default)]
pub struct Notes {
    /// What machines have taught.
    pub lessons: Lessons,
    /// Who is not served as it wishes.
    pub notices: Notices,
}

/// The lessons of an earlier run. A file that cannot be read is set aside: what it held is learned again.
pub fn load(path: &Path) -> Lessons {
    match try_load(path) {
        Ok(lessons) => lessons,
        Err(error) => {
            let aside = path.with_added_extension("damaged");
            log::warn!(
                "{} does not hold, so what machines have taught is learned again; it is kept as {}: {error:#}",
                path.display(),
                aside.display()
            );
            if let Err(error) = std::fs::rename(path, &aside) {
                log::warn!(error:%; "cannot set {} aside", path.display());
            }
            Lessons::default()
        }
    }
}

fn try_load(path: &Path) -> anyhow::Result<Lessons> {
    match data_dir::read_private(path)? {
        Some(text) => Ok(Lessons::parse(&text)?),
        None => Ok(Lessons::default()),
    }
}

/// Hears of events and writes them down.
#[derive(Debug)]
pub struct Scribe {
    notes: Rc<RefCell<Notes>>,
    changed: Sender<()>,
}

impl Scribe {
    /// Writes to `notes`; what is received is for [`keep`].
    pub fn new(notes: Rc<RefCell<Notes>>) -> (Self, Receiver<()>) {
        // One signal that waits is as good as many.
        let (changed, changes) = bounded(1);
        (Self { notes, changed }, changes)
    }
}

impl Observer for Scribe {
    fn observe(&mut self, event: &Event<'_>) {
        let now = clock::now();
        let (client, kind, text) = match event {
            Event::Learned(lesson) => {
                self.notes.borrow_mut().lessons.note(*lesson, now);
                _ = self.changed.try_send(());
                return;
            }
            Event::Answered { reply, .. } if reply.boot == Boot::Script(IpxeSign::Loop) => {
                (Some(reply.client), NoticeKind::Loop, reply.boot.to_string())
            }
            Event::Answered { .. } | Event::Fetched(_) => return,
            Event::Unsent { interface, reply, error } => {
                let text = format!("the answer cannot be sent on {interface}: {error}");
                (Some(reply.client), NoticeKind::Unsent, text)
            }
            Event::Silent { silence, .. } => {
                let kind = match silence.reason {
                    Reason::Unserved(_) => NoticeKind::Unserved,
                    Reason::NoLoader(_) => NoticeKind::NoLoader,
                    Reason::RefusedByOperator => NoticeKind::RefusedByOperator,
                    _ => return,
                };
                (silence.client, kind, silence.reason.to_string())
            }
        };
        let Some(client) = client else { return };
        let mac = client.mac;
        if self.notes.borrow_mut().notices.note(mac, kind, text.clone(), now) {
            log::warn!(mac:%; "{mac}: {text}");
        }
    }
}

/// Keeps the lessons in the file `path` for as long as there are changes.
pub async fn keep(path: PathBuf, notes: Rc<RefCell<Notes>>, changes: Receiver<()>) {
    let mut is_failing = false;
    while changes.recv().await.is_ok() {
        // Written again until it is on disk; the machines do not wait for it.
        loop {
            let text = notes.borrow().lessons.emit();
            let target = path.clone();
            let written = smol::unblock(move || data_dir::write_private(&target, &text)).await;
            Timer::after(SAVE_REST).await;
            let was_failing = std::mem::replace(&mut is_failing, written.is_err());
            match written.context("what machines have taught is not kept, it is tried again") {
                Ok(()) => break,
                // FAULTS D3, D4: a disk stays full for long; one line is enough.
                Err(error) if !was_failing => log::warn!("{error:#}"),
                Err(error) => log::debug!("{error:#}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::quirks::{Lesson, OfferMode, Proof};

    #[test]
    fn lessons_are_on_disk_soon_and_loaded_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lessons.json");
        assert_eq!(load(&path), Lessons::default());
        let notes = Rc::new(RefCell::new(Notes::default()));
        let (mut scribe, changes) = Scribe::new(Rc::clone(&notes));
        let mac = "52:54:00:12:34:56".parse().expect("an address");
        let lesson = Lesson { mac, mode: OfferMode::BootServer, proof: Proof::Untried };
        scribe.observe(&Event::Learned(lesson));
        scribe.observe(&Event::Learned(Lesson { proof: Proof::Worked, ..lesson }));
        let waited = async {
            let limit = clock::monotonic() + Duration::from_secs(5);
            while !path.exists() && clock::monotonic() < limit {
                Timer::after(Duration::from_millis(5)).await;
            }
        };
        let kept = keep(path.clone(), Rc::clone(&notes), changes);
        #[expect(clippy::disallowed_methods, reason = "a test's one wait")]
        smol::block_on(smol::future::or(kept, waited));
        assert_eq!(load(&path), notes.borrow().lessons);
        assert_eq!(load(&path).entries().len(), 1);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_not_fatal() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lessons.json");
        data_dir::write_private(&path, "{\"format\":").expect("written");
        assert_eq!(load(&path), Lessons::default());
        assert!(!path.exists());
        assert!(dir.path().join("lessons.json.damaged").exists());
    }
}
