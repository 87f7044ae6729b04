//! Where site and controller disagree, at the site: what waits for a person, and how a person at the site ends it.
//!
//! The controller has both sides as they are now, so it is there that a conflict ends, whoever decides. The site keeps what it was
//! told, to be read while the line is down. It queues no decision: made on an old picture and carried out later, that would
//! overwrite what nobody has looked at. Until somebody decides, the node boots its disk.

pub mod keeper;
pub mod route;
