//! The agent brings itself to another version, and back.
//!
//! The installed program is never written: the running agent is caged and could not, and whoever breaks into it must not. What
//! the controller orders is fetched into the data directory, and the *next start* decides: the installed program looks, before it
//! binds or believes anything else, whether a newer one lies there that the controller has signed for this site, tries it out
//! in a child, counts the try on disk and becomes it ([`launch`]). Until that one has proven itself ([`updater`]) each start of it is
//! counted, and the third that fails is the last, whatever the new program did or could not do.
//!
//! Whoever may choose the key that such a program is checked with may run what they like outside of the cage, so that key is pinned where the
//! caged agent cannot write ([`pin`]).
//!
//! [`journal`] is what is remembered of that, and all decisions; it knows no file, no clock and no process. [`files`], [`launch`] and
//! [`updater`] are the shell.

pub mod files;
pub mod journal;
pub mod launch;
pub mod local;
pub mod pin;
pub mod release;
pub mod updater;
