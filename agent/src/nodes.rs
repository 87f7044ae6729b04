//! What the controller says of the site's machines, kept for the time when it says nothing.
//!
//! Records come in three ways: all that has changed, from `follow`; one at a time, when a machine boots; and anew, when somebody
//! doubts one. `uplink` believes none that the controller has not signed for this site, `store` keeps them beside what the site has
//! seen itself. `view` is what people are shown; it, `fresh` and `autonomy` know no clock.
//!
//! `mover` takes what a person at the site wants of a node; who decides about that is in `autonomy`.

pub mod autonomy;
pub mod follow;
pub mod fresh;
pub mod mover;
pub mod route;
pub mod view;
