//! Who has a word on what the site keeps, as the sync sees them.

use std::pin::Pin;

use super::housekeeper::Housekeeper;
use super::verdicts::Verdicts;

/// What a jury comes to, when it has.
pub type Deliberation<'a> = Pin<Box<dyn Future<Output = Option<Verdicts>> + 'a>>;

/// Judges what the site holds and may hold. No machine waits for it.
pub trait Jury {
    /// Its words on what `house` keeps; none where the last ones still hold.
    fn judge<'a>(&'a self, house: &'a Housekeeper) -> Deliberation<'a>;
}
