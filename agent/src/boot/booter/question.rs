//! Questions to the controller while machines wait: one in flight per machine, however many times it asks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use pureboot_protocol::Mac;
use smol::lock::OnceCell;

use crate::clock;
use crate::uplink::controller::{AT_BOOT, Controller, NodeAnswer};
use crate::uplink::standing::Standing;

/// What the controller said; none if it did not.
type Answer = Option<NodeAnswer>;

/// The questions in flight.
pub(super) struct Questions {
    controller: Rc<Controller>,
    standing: Rc<Standing>,
    in_flight: RefCell<HashMap<Mac, Rc<OnceCell<Answer>>>>,
}

impl Questions {
    pub(super) fn new(controller: Rc<Controller>, standing: Rc<Standing>) -> Self {
        Self { controller, standing, in_flight: RefCell::default() }
    }

    /// What the controller knows of `mac`; none if it does not say in time.
    pub(super) async fn ask(&self, mac: Mac) -> Answer {
        let asker = Asker::join(&self.in_flight, mac);
        let ask = async {
            let outcome = self.controller.node(mac, AT_BOOT).await;
            self.standing.learn_in_a_hurry(&outcome, clock::now());
            if let Err(error) = &outcome {
                log::warn!(mac:%, error:%; "the controller was asked about {mac} in vain");
            }
            outcome.ok()
        };
        // Who asks first calls; should it leave, the next in line calls.
        asker.cell.get_or_init(|| ask).await.clone()
    }
}

/// One of those who wait for an answer. The last to leave takes the question away, so that the next one asks anew.
struct Asker<'a> {
    in_flight: &'a RefCell<HashMap<Mac, Rc<OnceCell<Answer>>>>,
    mac: Mac,
    cell: Rc<OnceCell<Answer>>,
}

impl<'a> Asker<'a> {
    fn join(in_flight: &'a RefCell<HashMap<Mac, Rc<OnceCell<Answer>>>>, mac: Mac) -> Self {
        let cell = Rc::clone(in_flight.borrow_mut().entry(mac).or_default());
        Self { in_flight, mac, cell }
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        const MAP_AND_SELF: usize = 2;
        if Rc::strong_count(&self.cell) <= MAP_AND_SELF {
            self.in_flight.borrow_mut().remove(&self.mac);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_asker_takes_the_question_away() {
        let in_flight = RefCell::default();
        let mac = "52:54:00:12:34:56".parse().expect("an address");
        let first = Asker::join(&in_flight, mac);
        let second = Asker::join(&in_flight, mac);
        assert!(Rc::ptr_eq(&first.cell, &second.cell));
        drop(first);
        assert_eq!(in_flight.borrow().len(), 1);
        drop(second);
        assert_eq!(in_flight.borrow().len(), 0);
    }
}
