//! Which life of the agent speaks. The controller listens to one machine at a time under an identity (FAULTS N13, A5, A17): a life
//! that follows the one that it answered last is a restart; any other is a copy of the disk or a stolen credential.

use std::cell::Cell;
use std::path::PathBuf;

use anyhow::anyhow;
use pureboot_protocol::{Instance, InstanceId};

use crate::data_dir::{self, DataDir};
use crate::world;

/// This life of the agent.
#[derive(Debug)]
pub struct Tenure {
    instance: Instance,
    file: PathBuf,
    /// Whether the next life will know that the controller has answered this one.
    is_noted: Cell<bool>,
}

impl Tenure {
    /// Begins a life, which follows the one that was noted last. The first one is noted here, before the controller can hear of it:
    /// it may be cut short between the answer and its note, and then nothing else would tie the next one to it. Lives that come later need
    /// no such note, because they are followed as the one that was noted before them is.
    ///
    /// # Errors
    /// The system has no random numbers. A note that cannot be read counts as none: the controller then waits until the former life
    /// has been silent for a while.
    pub fn begin(data_dir: &DataDir) -> anyhow::Result<Self> {
        let bytes = world::random()
            .map_err(|error| anyhow!("the system has no random numbers: {error}"))?;
        let file = data_dir.instance_file();
        let succeeds = match data_dir::read_private(&file) {
            Ok(noted) => noted.and_then(|noted| InstanceId::try_from(noted.trim().to_owned()).ok()),
            Err(error) => {
                log::warn!("cannot read which life of the agent was the last: {error:#}");
                None
            }
        };
        let instance = Instance { id: InstanceId::from_bytes(bytes), succeeds };
        if succeeds.is_none()
            && let Err(error) = data_dir::write_private(&file, &note(instance))
        {
            log::warn!("cannot note the first life of the agent: {error:#}");
        }
        Ok(Self { instance, file, is_noted: Cell::new(false) })
    }

    /// This life, as the controller is told.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// The controller has answered: the next life follows this one.
    pub async fn hold(&self) {
        if self.is_noted.replace(true) {
            return;
        }
        let (file, text) = (self.file.clone(), note(self.instance));
        let noted = world::unblock(move || data_dir::write_private(&file, &text)).await;
        if let Err(error) = noted {
            self.is_noted.set(false);
            log::warn!("cannot note that the controller has answered: {error:#}");
        }
    }
}

/// What is written down of a life.
fn note(instance: Instance) -> String {
    format!("{}\n", instance.id)
}

#[cfg(test)]
mod tests {
    use smol::future::block_on;

    use super::*;

    #[test]
    fn n13_a_life_follows_the_last_one_that_was_answered() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::create(&dir.path().join("data")).expect("made");
        std::fs::create_dir(data_dir.root().join("state")).expect("made");
        let first = Tenure::begin(&data_dir).expect("begun");
        assert_eq!(first.instance().succeeds, None);
        block_on(first.hold());
        let unanswered = Tenure::begin(&data_dir).expect("begun");
        let second = Tenure::begin(&data_dir).expect("begun");
        assert_ne!(unanswered.instance().id, second.instance().id);
        assert_eq!(second.instance().succeeds, Some(first.instance().id));
        block_on(second.hold());
        let third = Tenure::begin(&data_dir).expect("begun");
        assert_eq!(third.instance().succeeds, Some(second.instance().id));
    }

    #[test]
    fn k21_the_first_life_is_followed_although_it_has_not_noted_that_it_was_answered() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::create(&dir.path().join("data")).expect("made");
        std::fs::create_dir(data_dir.root().join("state")).expect("made");
        let first = Tenure::begin(&data_dir).expect("begun");
        assert_eq!(first.instance().succeeds, None);
        for _ in 0..2 {
            let next = Tenure::begin(&data_dir).expect("begun");
            assert_eq!(next.instance().succeeds, Some(first.instance().id));
        }
    }

    #[test]
    fn a_note_that_is_no_life_counts_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::create(&dir.path().join("data")).expect("made");
        std::fs::create_dir(data_dir.root().join("state")).expect("made");
        data_dir::write_private(&data_dir.instance_file(), "nonsense").expect("written");
        assert_eq!(Tenure::begin(&data_dir).expect("begun").instance().succeeds, None);
    }
}
