//! Who may have an answer file with its secrets (FAULTS H23). Values in, values out.
//!
//! A file with secrets is given whole only to the boot session that was given the machine's installer last, from where that session was or
//! from where the machine is now, while the machine is being installed, and once. "Once" is a stretch of [`REPEAT_TIME`] and at most
//! [`REPEATS_MAX`] times: nobody can know what of an answer has arrived, installers come back after a broken connection, and some ask twice.
//! Everybody else gets the same file with its secrets hidden.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use pureboot_protocol::{BootId, Lifecycle, Timestamp};

/// How long after the first time a file is given whole again.
pub const REPEAT_TIME: Duration = Duration::from_secs(120);

/// How often a file is given whole within that time.
pub const REPEATS_MAX: u32 = 8;

/// How long after its script a boot session may have secrets: as long as an installation may take before it counts as failed.
pub const GRANT_TIME: Duration = Duration::from_secs(60 * 60);

/// The boot session of a machine that was given an installer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The session.
    pub session: BootId,
    /// Where the machine asked from.
    pub address: IpAddr,
    /// When it was given the installer.
    pub granted_at: Timestamp,
}

/// How often a session was given a file whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// The first time.
    pub first_at: Timestamp,
    /// How often.
    pub times: u32,
}

/// Who asks for a file of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The session that the URL names, if it names one.
    pub session: Option<BootId>,
    /// Where the question comes from.
    pub address: IpAddr,
    /// Whether the network says that the machine itself is there: installers often get another address than firmware.
    pub is_machine: bool,
}

/// Why secrets are hidden. The log and the boot session get the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hidden {
    /// Nobody was given an installer, or nobody for long.
    NotInstalling,
    /// The machine is past it.
    State(Lifecycle),
    /// Another session, earlier or of another machine.
    OtherSession,
    /// Neither the session's address nor the machine's.
    Elsewhere,
    /// The grant is old.
    Late,
    /// The session has had it.
    GivenBefore(Timestamp),
    /// The site has let them go.
    Gone,
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalling => f.write_str("the machine was not given an installer"),
            Self::State(state) => write!(f, "the machine is {state} and not being installed"),
            Self::OtherSession => {
                f.write_str("it is not for the boot session that was given the installer")
            }
            Self::Elsewhere => {
                f.write_str("it is asked for from an address that is not the machine's")
            }
            Self::Late => {
                let minutes = GRANT_TIME.as_secs() / 60;
                write!(f, "the installer was given more than {minutes} minutes ago")
            }
            Self::GivenBefore(at) => {
                write!(f, "the boot session was given it at {at} - boot the machine again")
            }
            Self::Gone => f.write_str("the site no longer keeps the secrets of this machine"),
        }
    }
}

/// Judges whether `asker` gets a file with its secrets, of a machine in `state` whose latest grant is `grant`; `given` is how often that
/// session has had this file.
///
/// # Errors
/// Why not.
pub fn judge(
    asker: &Asker,
    state: Option<Lifecycle>,
    grant: Option<&Grant>,
    given: Option<Given>,
    now: Timestamp,
) -> Result<(), Hidden> {
    let grant = grant.ok_or(Hidden::NotInstalling)?;
    match state {
        Some(Lifecycle::Pending | Lifecycle::Installing) => {}
        Some(state) => return Err(Hidden::State(state)),
        None => return Err(Hidden::NotInstalling),
    }
    if asker.session.is_some_and(|session| session != grant.session) {
        return Err(Hidden::OtherSession);
    }
    if asker.address.to_canonical() != grant.address.to_canonical() && !asker.is_machine {
        return Err(Hidden::Elsewhere);
    }
    if !is_within(GRANT_TIME, grant.granted_at, now) {
        return Err(Hidden::Late);
    }
    match given {
        Some(Given { first_at, times })
            if times >= REPEATS_MAX || !is_within(REPEAT_TIME, first_at, now) =>
        {
            Err(Hidden::GivenBefore(first_at))
        }
        _ => Ok(()),
    }
}

/// Whether `now` is no further from `then` than `time`. A clock that was set back does not open what was closed.
fn is_within(time: Duration, then: Timestamp, now: Timestamp) -> bool {
    now.seconds_since(then).unsigned_abs() <= time.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: [u8; 16] = [1; 16];

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_219_200_000 + seconds * 1_000)
    }

    fn grant() -> Grant {
        Grant {
            session: BootId::from_random(SESSION),
            address: [192, 0, 2, 7].into(),
            granted_at: at(0),
        }
    }

    fn asker() -> Asker {
        let session = Some(BootId::from_random(SESSION));
        Asker { session, address: [192, 0, 2, 7].into(), is_machine: false }
    }

    fn judge_at(asker: &Asker, given: Option<Given>, seconds: i64) -> Result<(), Hidden> {
        judge(asker, Some(Lifecycle::Installing), Some(&grant()), given, at(seconds))
    }

    #[test]
    fn h23_the_session_that_was_given_the_installer_has_it_once_and_again_for_a_while() {
        assert_eq!(judge_at(&asker(), None, 600), Ok(()));
        let given = |times| Some(Given { first_at: at(600), times });
        assert_eq!(judge_at(&asker(), given(1), 601), Ok(()), "the connection broke");
        assert_eq!(judge_at(&asker(), given(7), 720), Ok(()));
        let before = Err(Hidden::GivenBefore(at(600)));
        assert_eq!(judge_at(&asker(), given(1), 721), before);
        assert_eq!(judge_at(&asker(), given(8), 601), before, "too often");
        assert_eq!(judge_at(&asker(), given(1), 400), before, "the clock was set back");
    }

    #[test]
    fn h23_another_session_has_it_never() {
        let other = Asker { session: Some(BootId::from_random([2; 16])), ..asker() };
        assert_eq!(judge_at(&other, None, 1), Err(Hidden::OtherSession));
        let unnamed = Asker { session: None, ..asker() };
        assert_eq!(judge_at(&unnamed, None, 1), Ok(()), "its address tells");
    }

    #[test]
    fn h23_another_address_has_it_only_where_the_machine_itself_is() {
        let other = Asker { address: [192, 0, 2, 8].into(), ..asker() };
        assert_eq!(judge_at(&other, None, 1), Err(Hidden::Elsewhere));
        assert_eq!(judge_at(&Asker { is_machine: true, ..other }, None, 1), Ok(()));
        let mapped = Asker { address: "::ffff:192.0.2.7".parse().expect("an address"), ..asker() };
        assert_eq!(judge_at(&mapped, None, 1), Ok(()));
    }

    #[test]
    fn h23_nobody_has_it_who_is_not_being_installed() {
        assert_eq!(judge_at(&asker(), None, 3_601), Err(Hidden::Late));
        let judge = |state, grant| judge(&asker(), state, grant, None, at(1));
        let grant = grant();
        assert_eq!(judge(Some(Lifecycle::Pending), None), Err(Hidden::NotInstalling));
        assert_eq!(judge(None, Some(&grant)), Err(Hidden::NotInstalling));
        for state in Lifecycle::ALL.iter().copied() {
            let expected = match state {
                Lifecycle::Pending | Lifecycle::Installing => Ok(()),
                state => Err(Hidden::State(state)),
            };
            assert_eq!(judge(Some(state), Some(&grant)), expected);
        }
    }
}
