//! How often somebody may try.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tollgate_core::{Error, Kind, Result, Timestamp};

/// Attempts in a minute from one address, and of one account; each may cost the check of a password.
const ATTEMPTS_MAX: u32 = 10;
/// The same of what a provider of identities is asked for: no password is looked at, and an office may have one address.
const ASKED_MAX: u32 = 120;
const MINUTE_SECONDS: i64 = 60;
/// Addresses and accounts that are told apart; those beyond are one.
const SOURCES_MAX: usize = 10_000;

/// Counts attempts: by the address they come from, and by the account that they are of.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<(i64, HashMap<Source, u32>)>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    /// An address that has a provider asked.
    Asking(IpAddr),
    Account(String),
    /// All that there was no room to tell apart.
    Other,
}

impl Throttle {
    pub(crate) fn pass_address(&self, address: Option<IpAddr>, now: Timestamp) -> Result<()> {
        self.pass(address.map_or(Source::Other, |address| Source::Address(network(address))), now)
    }

    /// Of what makes us ask the provider of identities.
    pub(crate) fn pass_asking(&self, address: Option<IpAddr>, now: Timestamp) -> Result<()> {
        self.pass(address.map_or(Source::Other, |address| Source::Asking(network(address))), now)
    }

    pub(crate) fn pass_account(&self, email: &str, now: Timestamp) -> Result<()> {
        self.pass(Source::Account(email.to_owned()), now)
    }

    fn pass(&self, source: Source, now: Timestamp) -> Result<()> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.floor_to(MINUTE_SECONDS).0;
        if counted.0 != minute {
            *counted = (minute, HashMap::new());
        }
        let is_told_apart = counted.1.len() < SOURCES_MAX || counted.1.contains_key(&source);
        let most = if matches!(source, Source::Asking(_)) { ASKED_MAX } else { ATTEMPTS_MAX };
        let count = counted.1.entry(if is_told_apart { source } else { Source::Other }).or_default();
        *count += 1;
        if *count <= most {
            return Ok(());
        }
        let wait = (minute + MINUTE_SECONDS - now.0).max(1);
        let message = "Too many attempts. Please try again in a minute.";
        Err(Error::new(Kind::RateLimited, message)
            .code("rate_limit_exceeded")
            .header("retry-after", wait.to_string()))
    }
}

/// Of IPv6 a network of 64 bits is one address: everybody has so many.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_attempts_in_a_minute() {
        let throttle = Throttle::default();
        let pass = |address: &str, now| throttle.pass_address(address.parse().ok(), Timestamp(now));
        for number in 0..ATTEMPTS_MAX {
            pass("1.2.3.4", 120).unwrap();
            pass(&format!("2001:db8::{number}"), 120).unwrap();
        }
        let refused = pass("1.2.3.4", 130).unwrap_err();
        assert_eq!((refused.status(), refused.code), (429, Some("rate_limit_exceeded")));
        assert!(pass("2001:db8::ffff", 130).is_err(), "it is the same network");
        pass("2001:db8:0:1::1", 130).unwrap();
        pass("1.2.3.5", 130).unwrap();
        pass("1.2.3.4", 180).unwrap();
        // Nobody who is known suffers from a crowd.
        for number in 0..2 * u32::try_from(SOURCES_MAX).unwrap() {
            let _ = throttle.pass_address(Some(IpAddr::V4(number.into())), Timestamp(181));
        }
        pass("1.2.3.4", 181).unwrap();
        for _ in 0..ATTEMPTS_MAX {
            throttle.pass_account("ada@example.com", Timestamp(240)).unwrap();
        }
        assert!(throttle.pass_account("ada@example.com", Timestamp(240)).is_err());
    }
}
