//! What a program makes of the words of another version of itself or of its controller (FAULTS U7): fields that it does not know it does
//! not read, and a part that it does not understand it takes for one that is not there, so that the rest of the message counts.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// Reads what may be there, and none where it is not as this program knows it.
///
/// # Errors
/// It is not even JSON.
pub(crate) fn understood<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said<T> {
        Known(T),
        Foreign(IgnoredAny),
    }
    Ok(Option::<Said<T>>::deserialize(deserializer)?.and_then(|said| match said {
        Said::Known(known) => Some(known),
        Said::Foreign(_) => None,
    }))
}
