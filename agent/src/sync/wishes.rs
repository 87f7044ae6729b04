//! What would be of use to be synced before its time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use pureboot_protocol::ContentHash;
use smol::channel::{Receiver, Sender, bounded};

/// Objects that are remembered because a machine asked for them, until they are here.
const ASKED_FOR_MAX: usize = 256;

/// Says that a sync would be of use. Its clones wish for the same.
#[derive(Clone)]
pub struct Wishes {
    sender: Sender<()>,
    receiver: Receiver<()>,
    pub(super) asked_for: Rc<RefCell<BTreeSet<ContentHash>>>,
}

impl Default for Wishes {
    fn default() -> Self {
        // One wish that waits is as good as many.
        let (sender, receiver) = bounded(1);
        Self { sender, receiver, asked_for: Rc::default() }
    }
}

impl Wishes {
    /// This object soon, please, and what belongs to it. Nobody waits for it.
    pub fn wish_for(&self, sha256: ContentHash) {
        let mut asked_for = self.asked_for.borrow_mut();
        if asked_for.len() < ASKED_FOR_MAX {
            asked_for.insert(sha256);
        }
        self.wake();
    }

    /// A sync soon, please: what is to be held may have changed.
    pub(super) fn wake(&self) {
        _ = self.sender.try_send(());
    }

    /// Returns when somebody has wished for a sync.
    pub(super) async fn heard(&self) {
        _ = self.receiver.recv().await;
    }
}
