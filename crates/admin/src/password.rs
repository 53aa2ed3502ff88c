//! Passwords: Argon2id, a few at a time, for each takes 19 MiB and tens of milliseconds on purpose.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;
use tollgate_core::secret::{Secret, random_bytes};
use tollgate_core::{Error, Kind, Result};

/// Shorter ones can be guessed.
const LENGTH_MIN: usize = 12;
const LENGTH_MAX: usize = 1_024;
const AT_ONCE: usize = 2;

static RUNNING: Semaphore = Semaphore::const_new(AT_ONCE);
/// Those that run and those that wait for them. Beyond it whoever asks is told to come back.
static ADMITTED: Semaphore = Semaphore::const_new(16);

/// Refuses what is no password for a new account.
pub(crate) fn check(password: &Secret) -> Result<()> {
    let length = password.reveal().chars().count();
    if (LENGTH_MIN..=LENGTH_MAX).contains(&length) {
        return Ok(());
    }
    let message =
        format!("Invalid 'password': from {LENGTH_MIN} to {LENGTH_MAX} characters, but got {length}.");
    let code = if length < LENGTH_MIN { "string_below_min_length" } else { "string_above_max_length" };
    Err(Error::invalid("password", message).code(code))
}

/// What is stored of a password.
pub(crate) async fn hash(password: Secret) -> Result<String> {
    run(move || {
        let failed = |error: argon2::password_hash::Error| {
            Error::internal("a password could not be hashed").source(error)
        };
        let salt: [u8; 16] = random_bytes();
        let hashed = Argon2::default().hash_password_with_salt(password.reveal().as_bytes(), &salt);
        hashed.map(|hash: PasswordHash| hash.to_string()).map_err(failed)
    })
    .await
}

/// Whether it is the password behind what is stored.
pub(crate) async fn verify(password: Secret, stored: String) -> Result<bool> {
    run(move || {
        let stored = PasswordHash::new(&stored)
            .map_err(|error| Error::internal("a stored password cannot be read").source(error))?;
        Ok(Argon2::default().verify_password(password.reveal().as_bytes(), &stored).is_ok())
    })
    .await
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let busy = || {
        let message = "Too many passwords are being checked. Please try again.";
        Error::new(Kind::RateLimited, message).code("rate_limit_exceeded").header("retry-after", "1")
    };
    let _admitted = ADMITTED.try_acquire().map_err(|_| busy())?;
    let _running = RUNNING.acquire().await.map_err(|_| busy())?;
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal("the check of a password was lost").source(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other_is() {
        let stored = hash(Secret::new("correct horse battery")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(verify(Secret::new("correct horse battery"), stored.clone()).await.unwrap());
        assert!(!verify(Secret::new("correct horse batterY"), stored.clone()).await.unwrap());
        assert_ne!(
            hash(Secret::new("correct horse battery")).await.unwrap(),
            stored,
            "each has a salt of its own"
        );
        assert!(verify(Secret::new("x"), "nonsense".to_owned()).await.is_err());
    }

    #[test]
    fn short_and_endless_passwords_are_none() {
        for bad in ["", "short", &"x".repeat(1_025)] {
            assert_eq!(check(&Secret::new(bad)).unwrap_err().param.as_deref(), Some("password"));
        }
        assert!(check(&Secret::new("twelve chars")).is_ok());
    }
}
