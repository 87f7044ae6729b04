//! Random bytes: from the kernel, or on a thread of a simulation from what that has put in its place.

use std::cell::RefCell;

/// Fills bytes by chance.
pub(crate) type Chance = Box<dyn FnMut(&mut [u8])>;

thread_local! {
    static CHANCE: RefCell<Option<Chance>> = const { RefCell::new(None) };
}

/// From here on random bytes of this thread come from `chance`; from the kernel again if there is none.
pub(crate) fn draw_from(chance: Option<Chance>) {
    CHANCE.set(chance);
}

/// As many random bytes as are asked for.
pub(crate) fn bytes<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    CHANCE.with_borrow_mut(|chance| match chance {
        Some(fill) => fill(&mut bytes),
        None => {
            getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted")
        }
    });
    bytes
}
