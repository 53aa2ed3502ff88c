//! Refused sign-ins on their way to the audit log: the first of an account from an address in a minute is told at once, those
//! that follow as one event with their number when the minute is over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tollgate_core::{OrganizationId, Timestamp, UserId};

use super::throttle::network;
use crate::actor::Origin;

const MINUTE_SECONDS: i64 = 60;
/// Pairs of accounts and addresses that are told apart in a minute; beyond it the addresses of an account are one.
const PAIRS_MAX: usize = 10_000;

/// Refusals of one account from one address.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) organization: OrganizationId,
    pub(crate) user: UserId,
    pub(crate) email: String,
    pub(crate) origin: Origin,
    pub(crate) attempts: u32,
    /// Those of them that were too many, and of which no password was looked at.
    pub(crate) throttled: u32,
}

type Pair = (OrganizationId, UserId, Option<IpAddr>);

impl Failure {
    /// Addresses are told apart as the throttle does. When there is no room for more, an account's are one.
    fn pair(&self, is_room: bool) -> Pair {
        let address = self.origin.ip.map(network).filter(|_| is_room);
        (self.organization, self.user, address)
    }

    fn add(&mut self, other: &Self) {
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.throttled = self.throttled.saturating_add(other.throttled);
    }
}

/// The minute, and what followed the first of each pair in it.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<Pair, (i64, Failure)>>);

impl Failures {
    /// Counts a refusal, and gives back what is to be told at once: the first of its pair, if its password was wrong.
    pub(crate) fn note(&self, failure: Failure, now: Timestamp) -> Option<Failure> {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.floor_to(MINUTE_SECONDS).0;
        let is_known = pairs.contains_key(&failure.pair(true));
        let is_room = is_known || pairs.len() < PAIRS_MAX;
        let none = Failure { attempts: 0, throttled: 0, ..failure.clone() };
        let (since, counted) = pairs.entry(failure.pair(is_room)).or_insert((0, none));
        // Those of an earlier minute that are still to be told go on, and are told with this one.
        if *since != minute && counted.attempts == 0 {
            *since = minute;
            if failure.throttled == 0 && is_room {
                return Some(failure);
            }
        }
        counted.add(&failure);
        None
    }

    /// What could not be told is told with the next.
    pub(crate) fn put_back(&self, failure: &Failure) {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Failure { attempts: 0, throttled: 0, ..failure.clone() };
        pairs.entry(failure.pair(true)).or_insert((0, none)).1.add(failure);
    }

    /// What is to be told of minutes that are over; at the end of all, of this one too.
    pub(crate) fn take(&self, now: Timestamp, is_end: bool) -> Vec<Failure> {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.floor_to(MINUTE_SECONDS).0;
        let mut told = Vec::new();
        pairs.retain(|_, (since, failure)| {
            let is_over = is_end || *since < minute;
            if is_over && failure.attempts > 0 {
                told.push(failure.clone());
            }
            !is_over
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_minute_is_told_at_once_and_the_others_together() {
        let failures = Failures::default();
        let failure = |user: u128, ip: &str| Failure {
            organization: OrganizationId::from_bits(1),
            user: UserId::from_bits(user),
            email: "a@b.c".to_owned(),
            origin: Origin { ip: ip.parse().ok(), user_agent: None },
            attempts: 1,
            throttled: 0,
        };
        assert_eq!(failures.note(failure(1, "1.1.1.1"), Timestamp(60)).map(|told| told.attempts), Some(1));
        for second in 61..70 {
            assert!(failures.note(failure(1, "1.1.1.1"), Timestamp(second)).is_none());
        }
        assert!(failures.note(failure(1, "2.2.2.2"), Timestamp(70)).is_some(), "from elsewhere");
        assert!(failures.note(failure(2, "1.1.1.1"), Timestamp(70)).is_some(), "somebody else");
        assert!(failures.take(Timestamp(119), false).is_empty());
        let told = failures.take(Timestamp(120), false);
        assert_eq!(told.iter().map(|told| told.attempts).collect::<Vec<_>>(), [9]);
        assert!(failures.note(failure(1, "1.1.1.1"), Timestamp(121)).is_some(), "the next minute");
        assert!(failures.note(failure(1, "1.1.1.1"), Timestamp(122)).is_none());
        assert_eq!(failures.take(Timestamp(123), true).len(), 1);
        // What was too much is not told at once, and everybody has one network.
        let much = Failure { throttled: 1, ..failure(1, "2001:db8::1") };
        assert!(failures.note(much, Timestamp(180)).is_none());
        assert!(
            failures.note(Failure { throttled: 1, ..failure(1, "2001:db8::2") }, Timestamp(181)).is_none()
        );
        let told = failures.take(Timestamp(240), false);
        assert_eq!(told.iter().map(|told| (told.attempts, told.throttled)).collect::<Vec<_>>(), [(2, 2)]);
    }
}
