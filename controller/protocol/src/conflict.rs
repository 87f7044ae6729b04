//! Disagreements between a site and the controller about a node, as both name them.

use crate::site::words;

words! {
    /// What site and controller disagree about.
    ConflictKind {
        /// The state of a node that both know.
        StateMismatch = "state_mismatch",
        /// The site decided over a node of which it had no record.
        MissingLocal = "missing_local",
        /// The site decided over a node that the controller never had, or has retired.
        MissingCentral = "missing_central",
        /// The node is at home at another site, from which it is never taken without a person.
        SiteMismatch = "site_mismatch",
    }
}

words! {
    /// How a conflict ended.
    Resolution {
        /// The site's side stands.
        KeepLocal = "keep_local",
        /// The controller's side stands.
        KeepCentral = "keep_central",
        /// Something of both, field by field.
        Merge = "merge",
    }
}
