//! One object's way here, without I/O: what to ask for, what to make of an answer, and when to give up.
//!
//! Feed it what happens; each input returns what to do next. It knows no socket, no file and no clock.

use std::ops::Range;
use std::time::Duration;

use hyper::StatusCode;
use pureboot_protocol::ContentHash;

/// Tries in a row that brought no byte, after which the object is given up; whoever wants it may begin again.
const VAIN_TRIES_MAX: u32 = 4;

/// How often content may come that is not what the manifest says.
const MISMATCHES_MAX: u32 = 2;

/// The pause after the first try in vain; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The longest pause, whatever the controller says.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the head of an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// What the controller calls the bytes.
    pub etag: Option<String>,
    /// `Content-Range`.
    pub content_range: Option<String>,
    /// `Content-Length`.
    pub content_length: Option<u64>,
}

/// What to do with the body that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Leave out so many bytes, which are here already, and take the rest.
    TakeBehind(u64),
    /// It is a refusal of the controller's; its text and the pause that it asks for are in it.
    Refusal,
    /// It is the controller's, and its length is not the manifest's.
    Mismatch,
    /// It is somebody else's (FAULTS N7).
    Foreign,
}

/// What to do after a try has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask again, after this pause.
    Again(Duration),
    /// Give up.
    GiveUp,
}

/// The state of one fetch.
#[derive(Debug)]
pub struct Fetch {
    sha256: ContentHash,
    size_bytes: u64,
    vain_tries: u32,
    mismatches: u32,
    /// What the last try is to bring: from the end of what is here.
    range: Range<u64>,
}

impl Fetch {
    /// A fetch of an object that is known by the manifest.
    pub fn new(sha256: ContentHash, size_bytes: u64) -> Self {
        Self { sha256, size_bytes, vain_tries: 0, mismatches: 0, range: 0..size_bytes }
    }

    /// A try begins that is to bring these bytes; what is before them is here.
    pub fn handle_start(&mut self, range: Range<u64>) {
        self.range = range;
    }

    /// What to ask for; none: the whole.
    pub fn range(&self) -> Option<Range<u64>> {
        Some(self.range.clone()).filter(|range| *range != (0..self.size_bytes))
    }

    /// The head of an answer has come. Only an answer about this object, of this length, is one.
    pub fn handle_head(&self, head: &Head) -> Use {
        let is_this =
            head.etag.as_deref() == Some(&crate::uplink::controller::object_etag(self.sha256));
        let (Range { start, end }, size_bytes) = (self.range.clone(), self.size_bytes);
        let part = || format!("bytes {start}-{}/{size_bytes}", end.saturating_sub(1));
        match head.status {
            // A range that was not obeyed is no reason to fetch twice.
            StatusCode::OK if is_this && head.content_length == Some(size_bytes) => {
                Use::TakeBehind(start)
            }
            StatusCode::PARTIAL_CONTENT if is_this && head.content_range == Some(part()) => {
                Use::TakeBehind(0)
            }
            StatusCode::OK | StatusCode::PARTIAL_CONTENT if is_this => Use::Mismatch,
            status if status.is_client_error() || status.is_server_error() => Use::Refusal,
            _ => Use::Foreign,
        }
    }

    /// The try ended before the object was whole; `here` bytes are here now.
    pub fn handle_break(&mut self, here: u64, retry_after: Option<Duration>) -> Next {
        self.vain_tries = if here > self.range.start { 0 } else { self.vain_tries + 1 };
        if self.vain_tries >= VAIN_TRIES_MAX {
            return Next::GiveUp;
        }
        let pause = PAUSE_MIN * 2_u32.pow(self.vain_tries.saturating_sub(1));
        Next::Again(retry_after.unwrap_or(pause).clamp(PAUSE_MIN, PAUSE_MAX))
    }

    /// What has come is not what the manifest says.
    pub fn handle_mismatch(&mut self) -> Next {
        self.mismatches += 1;
        if self.mismatches > MISMATCHES_MAX { Next::GiveUp } else { Next::Again(PAUSE_MIN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash() -> ContentHash {
        ContentHash::from_digest([1; 32])
    }

    fn fetch(had: u64) -> Fetch {
        let mut fetch = Fetch::new(hash(), 100);
        fetch.handle_start(had..100);
        fetch
    }

    fn head(status: u16, range: Option<&str>, length: u64) -> Head {
        Head {
            status: StatusCode::from_u16(status).expect("a status"),
            etag: Some(format!("\"{}\"", hash())),
            content_range: range.map(ToOwned::to_owned),
            content_length: Some(length),
        }
    }

    #[test]
    fn k11_a_fetch_goes_on_where_it_was() {
        assert_eq!(fetch(0).handle_head(&head(200, None, 100)), Use::TakeBehind(0));
        let rest = head(206, Some("bytes 40-99/100"), 60);
        assert_eq!(fetch(40).handle_head(&rest), Use::TakeBehind(0));
        assert_eq!(fetch(40).handle_head(&head(200, None, 100)), Use::TakeBehind(40));
        assert_eq!((fetch(0).range(), fetch(40).range()), (None, Some(40..100)));
    }

    #[test]
    fn a_stretch_in_the_middle_is_taken_as_it_was_asked_for() {
        let mut fetch = fetch(0);
        fetch.handle_start(40..60);
        assert_eq!(fetch.range(), Some(40..60));
        assert_eq!(fetch.handle_head(&head(206, Some("bytes 40-59/100"), 20)), Use::TakeBehind(0));
        let longer = head(206, Some("bytes 40-99/100"), 60);
        assert_eq!(fetch.handle_head(&longer), Use::Mismatch);
    }

    #[test]
    fn c11_n7_what_is_not_this_object_is_not_read() {
        for (had, answer) in [
            (0, head(200, None, 99)),
            (0, head(200, None, 101)),
            (0, Head { content_length: None, ..head(200, None, 100) }),
            (40, head(206, Some("bytes 39-99/100"), 61)),
            (40, head(206, Some("bytes 40-99/101"), 60)),
            (40, head(206, None, 60)),
        ] {
            assert_eq!(fetch(had).handle_head(&answer), Use::Mismatch, "{answer:?}");
        }
        for answer in [
            Head { etag: None, ..head(200, None, 100) },
            Head { etag: Some("\"other\"".to_owned()), ..head(200, None, 100) },
            head(302, None, 0),
        ] {
            assert_eq!(fetch(0).handle_head(&answer), Use::Foreign, "{answer:?}");
        }
        assert_eq!(fetch(0).handle_head(&head(404, None, 9)), Use::Refusal);
        assert_eq!(fetch(0).handle_head(&head(503, None, 9)), Use::Refusal);
    }

    #[test]
    fn tries_in_vain_are_few_and_a_byte_makes_up_for_them() {
        let mut fetch = fetch(0);
        for pause_ms in [500, 1_000, 2_000] {
            let next = fetch.handle_break(0, None);
            assert_eq!(next, Next::Again(Duration::from_millis(pause_ms)));
        }
        assert_eq!(fetch.handle_break(1, None), Next::Again(PAUSE_MIN));
        for _ in 0..3 {
            fetch.handle_start(1..100);
            assert_ne!(fetch.handle_break(1, None), Next::GiveUp);
        }
        assert_eq!(fetch.handle_break(1, None), Next::GiveUp);
    }

    #[test]
    fn the_controller_may_ask_for_a_pause_but_not_for_a_year() {
        let asked = |seconds| fetch(0).handle_break(0, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(7), Next::Again(Duration::from_secs(7)));
        assert_eq!(asked(31_536_000), Next::Again(PAUSE_MAX));
    }

    #[test]
    fn c11_what_does_not_match_is_given_up_soon() {
        let mut fetch = fetch(0);
        assert_eq!(fetch.handle_mismatch(), Next::Again(PAUSE_MIN));
        assert_eq!(fetch.handle_mismatch(), Next::Again(PAUSE_MIN));
        assert_eq!(fetch.handle_mismatch(), Next::GiveUp);
    }
}
