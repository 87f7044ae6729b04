//! What the controller says of the site's machines, kept for the time when it says nothing.
//!
//! Records come in three ways: all that has changed, from `follow`; one at a time, when a machine boots; and anew, when somebody
//! doubts one. `uplink` believes none that the controller has not signed for this site, `store` keeps them beside what the site has
//! seen itself. `view` is what people are shown; it and `fresh` know no clock.

pub mod follow;
pub mod fresh;
pub mod route;
pub mod view;
