//! Hands boot sessions to the controller, so that whoever looks after all sites can read there why a machine did not boot.
//!
//! Best effort and not by the outbox: sessions explain the past and decide nothing, so what the controller does not take is
//! not kept for it any longer than the ring keeps it. What is told is told again after a restart; the controller knows a session by its id.

use std::time::Duration;

use hyper::StatusCode;
use pureboot_protocol::session::step::Session;
use pureboot_protocol::session::{BootReport, REPORT_SESSIONS_MAX};
use smol::Timer;

use super::recorder::Recorder;
use crate::uplink::connectivity::Line;
use crate::uplink::controller::{CallError, Controller};
use crate::uplink::standing::Standing;

/// How long a report may be, in bytes of JSON, but for its first session.
const REPORT_LEN_MAX: usize = 256 << 10;
/// Between two reports when there is more to tell: a line that is back belongs to others first.
const BREATH: Duration = Duration::from_secs(2);
/// How often it is looked whether the agent has joined its site, which tells the rhythm.
const UNJOINED_REST: Duration = Duration::from_secs(2);
/// How long a controller is left alone that does not know of sessions: an earlier version.
const UNKNOWN_REST: Duration = Duration::from_secs(3_600);

/// Tells for as long as the agent runs, with the rhythm of heartbeats.
pub async fn tell(recorder: &Recorder, controller: &Controller, standing: &Standing) {
    let mut has_complained = false;
    loop {
        while standing.agent_id().is_none() {
            Timer::after(UNJOINED_REST).await;
        }
        Timer::after(Duration::from_secs(standing.heartbeat_interval_s().into())).await;
        if matches!(standing.line(), Line::Offline { .. }) {
            continue;
        }
        while let Some(report) = next(recorder) {
            let Err(error) = controller.hand_over(&report).await else {
                Timer::after(BREATH).await;
                continue;
            };
            let fate = fate(&error);
            if fate != Fate::Refused {
                recorder.put_back_untold(&report.sessions);
            }
            if !has_complained && !error.is_line_trouble() {
                log::info!(error:%; "boot sessions are not taken by the controller: {error}");
                has_complained = true;
            }
            match fate {
                Fate::Refused => {}
                Fate::Later => break,
                Fate::Unknown => {
                    Timer::after(UNKNOWN_REST).await;
                    break;
                }
            }
        }
    }
}

/// What becomes of a report that was not taken.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is told again at the next beat.
    Later,
    /// Nobody there knows of sessions.
    Unknown,
    /// It would be refused again.
    Refused,
}

fn fate(error: &CallError) -> Fate {
    let CallError::Refused(refusal) = error else { return Fate::Later };
    match refusal.status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Fate::Unknown,
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => Fate::Refused,
        _ => Fate::Later,
    }
}

/// The next report; none if there is nothing to tell.
fn next(recorder: &Recorder) -> Option<BootReport> {
    let mut sessions = recorder.take_untold(REPORT_SESSIONS_MAX);
    let fitting = fitting(&sessions);
    recorder.put_back_untold(&sessions.split_off(fitting));
    (!sessions.is_empty()).then_some(BootReport { sessions })
}

/// How many of the first of `sessions` a report has room for: one at least.
fn fitting(sessions: &[Session]) -> usize {
    let mut len = 0;
    let fits = |session: &&Session| {
        len += serde_json::to_vec(session).map_or(0, |json| json.len());
        len <= REPORT_LEN_MAX
    };
    sessions.iter().take_while(fits).count().max(1).min(sessions.len())
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{BootId, Timestamp};

    use super::*;
    use crate::session::step::{Phase, Protocol, Step, What};
    use crate::uplink::controller::Refusal;

    fn session(steps: u32, text_len: usize) -> Session {
        let what = What::Missing { by: Protocol::Tftp, name: "x".repeat(text_len).into() };
        let step = |number| Step { number, at_ms: 0, took_ms: None, times: 1, what: what.clone() };
        Session {
            id: BootId::from_random([7; 16]),
            mac: None,
            address: None,
            started_at: Timestamp::from_unix_ms(0),
            reached: Phase::Asking,
            user_agents: Vec::new(),
            steps_folded: 0,
            steps: (0..steps).map(step).collect(),
        }
    }

    #[test]
    fn a_report_has_a_bound_in_bytes_and_one_session_at_least() {
        assert_eq!(fitting(&[]), 0);
        assert_eq!(fitting(&vec![session(1, 1); 50]), 50);
        let large = session(64, 255);
        let len = serde_json::to_vec(&large).expect("JSON").len();
        assert_eq!(fitting(&vec![large; 50]), REPORT_LEN_MAX / len);
        assert_eq!(fitting(&[session(1, REPORT_LEN_MAX), session(1, 1)]), 1);
    }

    #[test]
    fn what_would_be_refused_again_is_not_told_again() {
        let refused = |status: u16| {
            let status = StatusCode::from_u16(status).expect("a status");
            let (code, detail) = (String::new(), String::new());
            fate(&CallError::Refused(Refusal { status, code, detail, retry_after: None }))
        };
        for (statuses, fate) in [
            (&[400, 413, 422][..], Fate::Refused),
            (&[404, 405], Fate::Unknown),
            (&[401, 403, 408, 429, 500, 503], Fate::Later),
        ] {
            assert!(statuses.iter().all(|status| refused(*status) == fate), "{statuses:?}");
        }
        assert_eq!(fate(&CallError::Foreign("a portal".to_owned())), Fate::Later);
    }
}
