//! How much of what anybody may do in a time: the limits of the API, with their locks and clocks.
//!
//! Who is known is limited by credential, so that a site's machines behind one address do not stand in each other's way. Who is
//! not known is limited by address.

pub(crate) mod bucket;
pub(crate) mod failures;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pureboot_protocol::CredentialHash;

use crate::error::{ApiError, Excess};
use crate::limit::bucket::Buckets;
use crate::limit::failures::FailureLimit;

/// What fits into a bucket, in seconds of its flow.
const BURST_SECONDS: u32 = 10;
/// The time within which failures of an address are counted.
const ADDRESS_WINDOW: Duration = Duration::from_secs(60);
/// Failed logins of an account from anywhere within [`ACCOUNT_WINDOW`], after which addresses that have failed there wait.
const ACCOUNT_FAILURES_MAX: usize = 30;
/// The time within which failed logins of an account are counted.
const ACCOUNT_WINDOW: Duration = Duration::from_secs(600);

/// The limits that the command line sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitConfig {
    /// Requests a second that one credential may make, on average; ten seconds' worth at once.
    pub per_credential: u32,
    /// Requests a second without credential that one address may make, on average; ten seconds' worth at once.
    pub per_address: u32,
    /// Wrong tokens, credentials and passwords a minute that one address may offer, of each kind.
    pub failures: u32,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self { per_credential: 200, per_address: 100, failures: 10 }
    }
}

/// Who has done how much lately.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Wrong registration tokens.
    registrations: Mutex<FailureLimit<IpAddr>>,
    /// Wrong bearers and cookies.
    credentials: Mutex<FailureLimit<IpAddr>>,
    logins: Mutex<Logins>,
    known: Mutex<Buckets<CredentialHash>>,
    unknown: Mutex<Buckets<IpAddr>>,
    names: RandomState,
}

#[derive(Debug)]
struct Logins {
    addresses: FailureLimit<IpAddr>,
    accounts: FailureLimit<u64>,
    /// One failure is all that is asked for.
    pairs: FailureLimit<(u64, IpAddr)>,
}

impl Limits {
    /// Nobody has done anything yet.
    pub(crate) fn new(config: LimitConfig) -> Self {
        let failures_max = usize::try_from(config.failures).unwrap_or(usize::MAX);
        let addresses = || FailureLimit::new(failures_max, ADDRESS_WINDOW);
        Self {
            registrations: Mutex::new(addresses()),
            credentials: Mutex::new(addresses()),
            logins: Mutex::new(Logins {
                addresses: addresses(),
                accounts: FailureLimit::new(ACCOUNT_FAILURES_MAX, ACCOUNT_WINDOW),
                pairs: FailureLimit::new(1, ACCOUNT_WINDOW),
            }),
            known: Mutex::new(Buckets::new(config.per_credential, BURST_SECONDS)),
            unknown: Mutex::new(Buckets::new(config.per_address, BURST_SECONDS)),
            names: RandomState::new(),
        }
    }

    /// Counts a request with a credential that is known.
    ///
    /// # Errors
    /// 429 if there were too many.
    pub(crate) fn known(&self, credential: CredentialHash) -> Result<(), ApiError> {
        admitted(lock(&self.known).take(credential, Instant::now()), Excess::Requests)
    }

    /// Counts a request without credential.
    ///
    /// # Errors
    /// 429 if there were too many.
    pub(crate) fn unknown(&self, address: IpAddr) -> Result<(), ApiError> {
        admitted(lock(&self.unknown).take(source(address), Instant::now()), Excess::Requests)
    }

    /// Counts a credential that nobody has.
    ///
    /// # Errors
    /// 429 if there were too many before.
    pub(crate) fn wrong_credential(&self, address: IpAddr) -> Result<(), ApiError> {
        fail(&self.credentials, address)
    }

    /// Lets `address` try to register.
    ///
    /// # Errors
    /// 429 if it has failed too often.
    pub(crate) fn may_register(&self, address: IpAddr) -> Result<(), ApiError> {
        let wait = lock(&self.registrations).wait(source(address), Instant::now());
        admitted(wait, Excess::Failures)
    }

    /// Counts a registration token that is not valid.
    pub(crate) fn wrong_registration(&self, address: IpAddr) {
        lock(&self.registrations).fail(source(address), Instant::now());
    }

    /// Lets `address` try the account called `name`. However often others have failed there, an address that has not gets its
    /// try: an account cannot be locked from afar.
    ///
    /// # Errors
    /// 429 if it has failed too often.
    pub(crate) fn may_sign_in(&self, address: IpAddr, name: &str) -> Result<(), ApiError> {
        let (address, account, now) = (source(address), self.names.hash_one(name), Instant::now());
        let logins = lock(&self.logins);
        let wait = logins.addresses.wait(address, now).or_else(|| {
            let wait = logins.accounts.wait(account, now)?;
            logins.pairs.wait((account, address), now).map(|_| wait)
        });
        admitted(wait, Excess::Failures)
    }

    /// Counts a wrong password, or a name that nobody has.
    pub(crate) fn wrong_password(&self, address: IpAddr, name: &str) {
        let (address, account, now) = (source(address), self.names.hash_one(name), Instant::now());
        let mut logins = lock(&self.logins);
        logins.addresses.fail(address, now);
        logins.accounts.fail(account, now);
        logins.pairs.fail((account, address), now);
    }
}

fn fail(failures: &Mutex<FailureLimit<IpAddr>>, address: IpAddr) -> Result<(), ApiError> {
    let (address, now) = (source(address), Instant::now());
    let mut failures = lock(failures);
    let wait = failures.wait(address, now);
    if wait.is_none() {
        failures.fail(address, now);
    }
    admitted(wait, Excess::Failures)
}

fn admitted(wait: Option<Duration>, excess: Excess) -> Result<(), ApiError> {
    match wait {
        None => Ok(()),
        Some(wait) => Err(ApiError::TooMany { excess, retry_after_seconds: wait.as_secs() + 1 }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever has one IPv6 address has its whole /64, so that is what is counted.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a9_an_address_from_the_same_ipv6_network_is_the_same_source() {
        let limits = Limits::new(LimitConfig::default());
        for host in 1..=10 {
            limits.wrong_registration(format!("2001:db8::{host}").parse().expect("an address"));
        }
        assert!(limits.may_register("2001:db8::ffff".parse().expect("an address")).is_err());
        assert!(limits.may_register("2001:db8:0:1::1".parse().expect("an address")).is_ok());
    }

    #[test]
    fn a9_failed_logins_close_the_door_to_their_address_and_not_to_the_account() {
        let limits = Limits::new(LimitConfig::default());
        for _ in 0..10 {
            limits.may_sign_in(address(1), "ada").expect("ten tries");
            limits.wrong_password(address(1), "ada");
        }
        assert!(limits.may_sign_in(address(1), "ada").is_err());
        assert!(limits.may_sign_in(address(1), "grace").is_err());
        assert!(limits.may_sign_in(address(2), "ada").is_ok());
    }

    #[test]
    fn a9_an_account_that_is_attacked_from_everywhere_is_still_open_to_an_address_that_has_not_failed()
     {
        let limits = Limits::new(LimitConfig::default());
        for attacker in 1..=30 {
            limits.may_sign_in(address(attacker), "ada").expect("the first try of each");
            limits.wrong_password(address(attacker), "ada");
        }
        assert!(limits.may_sign_in(address(7), "ada").is_err(), "who has failed there waits");
        assert!(limits.may_sign_in(address(7), "grace").is_ok(), "and nowhere else");
        assert!(limits.may_sign_in(address(99), "ada").is_ok(), "the owner is let in");
    }
}
