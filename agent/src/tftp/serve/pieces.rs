//! Stretches of files that several transfers hold at once: a room full of machines boots the same file.

use std::collections::HashMap;
use std::rc::{Rc, Weak};

use super::Identity;
use crate::tftp::transfer::Piece;

/// Below so many entries nobody looks for those that are not held any more.
const SWEEP_LEN_MIN: usize = 256;

/// Which stretch of which content: its offset and its length.
type Place = (Identity, u64, usize);

/// What transfers hold. It holds nothing itself, so it needs no bound but theirs.
#[derive(Debug)]
pub(super) struct Pieces {
    held: HashMap<Place, Weak<Vec<u8>>>,
    sweep_len: usize,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self { held: HashMap::new(), sweep_len: SWEEP_LEN_MIN }
    }

    /// The stretch at `place`, if a transfer holds it.
    pub(super) fn find(&self, place: &Place) -> Option<Piece> {
        self.held.get(place)?.upgrade()
    }

    /// Lets other transfers have a stretch too.
    pub(super) fn share(&mut self, place: Place, piece: &Piece) {
        if self.held.len() >= self.sweep_len {
            self.held.retain(|_, piece| piece.strong_count() > 0);
            self.sweep_len = (self.held.len() * 2).max(SWEEP_LEN_MIN);
        }
        self.held.insert(place, Rc::downgrade(piece));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transfer_holds_is_shared_and_what_none_holds_is_forgotten() {
        let mut pieces = Pieces::new();
        let place = |number| ([7; 32], number, 10);
        let piece = Rc::new(vec![1; 10]);
        pieces.share(place(0), &piece);
        assert!(Rc::ptr_eq(&pieces.find(&place(0)).expect("held"), &piece));
        assert_eq!(pieces.find(&([8; 32], 0, 10)), None);
        for number in 1..10_000 {
            pieces.share(place(number), &Rc::new(vec![1; 10]));
            assert_eq!(pieces.find(&place(number)), None);
            assert!(pieces.held.len() <= SWEEP_LEN_MIN);
        }
        assert!(pieces.find(&place(0)).is_some());
    }
}
