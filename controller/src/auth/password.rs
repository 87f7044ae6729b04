//! Passwords: what one may be, and how it is kept and compared.
//!
//! Hashing one takes much memory and time on purpose. Whoever asks without a credential must not be able to make the controller
//! do it without end, so few are hashed at a time, few wait, and the rest is told to come back.

use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use axum::http::StatusCode;
use pureboot_protocol::Secret;
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::random;

/// The length of a password, in bytes.
const LEN: std::ops::RangeInclusive<usize> = 12..=256;
/// Passwords that are hashed at a time: each takes a core and [`Cost::OWASP`]'s memory.
const AT_ONCE_MAX: usize = 2;
/// Requests that wait for that at a time.
const WAITING_MAX: usize = 32;
/// Random bytes of a salt (RFC 9106 §3.1).
const SALT_LEN: usize = 16;

/// What hashing one password takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Memory, in KiB.
    pub(crate) memory_kib: u32,
    /// Passes over it.
    pub(crate) passes: u32,
}

impl Cost {
    /// The first choice of the OWASP Password Storage Cheat Sheet for argon2id: 19 MiB, 2 passes, 1 lane.
    pub(crate) const OWASP: Self = Self { memory_kib: 19_456, passes: 2 };

    fn argon2(self) -> Argon2<'static> {
        let params = Params::new(self.memory_kib, self.passes, 1, None);
        let params = params.expect("the costs that this program knows are within argon2's limits");
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
    }

    /// A hash that no password has, and that takes as long to find that out as any.
    fn nobodys(self) -> String {
        let (memory, passes) = (self.memory_kib, self.passes);
        let (salt, output) = ("A".repeat(22), "A".repeat(43));
        format!("$argon2id$v=19$m={memory},t={passes},p=1${salt}${output}")
    }

    /// The PHC string of `password`; blocks for as long as it takes.
    pub(crate) fn hash(self, password: &Secret) -> String {
        let salt = SaltString::encode_b64(&random::bytes::<SALT_LEN>());
        let salt = salt.expect("16 bytes are a salt");
        let hash = self.argon2().hash_password(password.reveal().as_bytes(), &salt);
        hash.expect("a password of checked length can be hashed").to_string()
    }
}

/// What is wrong with `password` as one of a person called `name`; none if it will do.
pub(crate) fn fault(name: &str, password: &Secret) -> Option<String> {
    let text = password.reveal();
    if !LEN.contains(&text.len()) {
        return Some(format!(
            "expected {} to {} bytes, got {}",
            LEN.start(),
            LEN.end(),
            text.len()
        ));
    }
    let same = text.to_lowercase() == name.to_lowercase();
    same.then(|| "a password must not be the name".to_owned())
}

/// Hashes and compares, few at a time. Clones share the places.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    cost: Cost,
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Passwords {
    /// Nobody is being served yet.
    pub(crate) fn new(cost: Cost) -> Self {
        Self {
            cost,
            working: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            waiting: Arc::new(Semaphore::new(AT_ONCE_MAX + WAITING_MAX)),
        }
    }

    /// What is kept of `password`.
    ///
    /// # Errors
    /// 503 if too many wait already.
    pub(crate) async fn hash(&self, password: Secret) -> Result<String, ApiError> {
        let cost = self.cost;
        self.run(move || cost.hash(&password)).await
    }

    /// Whether `password` is the one that `kept` was made of. Where there is none, and so no account, the same work is done.
    ///
    /// # Errors
    /// 503 if too many wait already.
    pub(crate) async fn is_right(
        &self,
        password: Secret,
        kept: Option<String>,
    ) -> Result<bool, ApiError> {
        // No password that is set is as long; hashing it would be work for nothing.
        if password.reveal().len() > *LEN.end() {
            return Ok(false);
        }
        let cost = self.cost;
        self.run(move || {
            let is_account = kept.is_some();
            let kept = kept.unwrap_or_else(|| cost.nobodys());
            let is_right = PasswordHash::new(&kept).is_ok_and(|kept| {
                // The costs are read from the hash.
                cost.argon2().verify_password(password.reveal().as_bytes(), &kept).is_ok()
            });
            is_right && is_account
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(ApiError::Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "busy",
                detail: "too many people sign in at once, try again".to_owned(),
            });
        };
        // The place belongs to the work and not to the request, which may be given up before the work has ended.
        let working = Arc::clone(&self.working).acquire_owned().await;
        let working = working.map_err(|error| ApiError::Internal(Box::new(error)))?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(working);
            done
        });
        worked.await.map_err(|error| ApiError::Internal(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1 };

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_password_is_12_to_256_bytes_and_not_the_name() {
        for (name, password, is_right) in [
            ("ada", "correct horse", true),
            ("ada", "12345678901", false),
            ("ada", "123456789012", true),
            ("ada", &"a".repeat(256), true),
            ("ada", &"a".repeat(257), false),
            ("ada", &"ä".repeat(129), false),
            ("ada lovelace", "Ada Lovelace", false),
            ("żółć gęślą", "ŻÓŁĆ gęślą", false),
            ("ada", "пароль пароль", true),
        ] {
            assert_eq!(fault(name, &secret(password)).is_none(), is_right, "{name} {password}");
        }
    }

    #[tokio::test]
    async fn a_password_is_kept_as_owasp_says_with_a_salt_of_its_own() {
        let passwords = Passwords::new(Cost::OWASP);
        let first = passwords.hash(secret("correct horse")).await.expect("hashed");
        let second = passwords.hash(secret("correct horse")).await.expect("hashed");
        assert!(first.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{first}");
        assert_ne!(first, second);
        let right = async |text, kept: &str| {
            passwords.is_right(secret(text), Some(kept.to_owned())).await.expect("compared")
        };
        assert!(right("correct horse", &first).await && right("correct horse", &second).await);
        assert!(!right("Correct horse", &first).await);
        assert!(!right("correct horse", "no hash at all").await);
    }

    #[tokio::test]
    async fn whoever_has_no_account_has_no_password_not_even_the_one_of_the_hash_that_is_compared()
    {
        let passwords = Passwords::new(CHEAP);
        assert!(!passwords.is_right(secret("anything will do"), None).await.expect("compared"));
        assert!(PasswordHash::new(&Cost::OWASP.nobodys()).is_ok(), "else nothing is hashed");
    }

    #[tokio::test]
    async fn an_account_that_is_not_there_costs_as_much_as_one_that_is() {
        let passwords = Passwords::new(Cost::OWASP);
        let kept = passwords.hash(secret("correct horse")).await.expect("hashed");
        let time = async |kept: Option<String>| {
            let start = Instant::now();
            assert!(!passwords.is_right(secret("wrong horse!"), kept).await.expect("compared"));
            start.elapsed()
        };
        let (mut known, mut unknown) = (Duration::MAX, Duration::MAX);
        // A busy machine makes some of them long; the shortest of each is what it costs.
        for _ in 0..40 {
            known = known.min(time(Some(kept.clone())).await);
            unknown = unknown.min(time(None).await);
            if unknown * 2 > known {
                break;
            }
        }
        assert!(unknown * 2 > known, "{unknown:?} against {known:?}");
        let start = Instant::now();
        let long = secret(&"a".repeat(64 << 10));
        assert!(!passwords.is_right(long, None).await.expect("compared"));
        assert!(start.elapsed() < known, "64 KB are refused before they are hashed");
    }

    #[tokio::test]
    async fn logins_cannot_take_all_cores_and_those_that_find_no_place_are_told_to_come_back() {
        let passwords = Passwords::new(CHEAP);
        let taken = passwords.working.acquire_many(u32::try_from(AT_ONCE_MAX).expect("few"));
        let taken = taken.await.expect("free");
        let waiting: Vec<_> = (0..AT_ONCE_MAX + WAITING_MAX)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.is_right(secret("some password"), None).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let turned_away = passwords.is_right(secret("some password"), None).await;
        let Err(ApiError::Refused { status, .. }) = turned_away else { panic!("a place was left") };
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        drop(taken);
        for waiting in waiting {
            assert!(!waiting.await.expect("ran").expect("compared"));
        }
    }
}
