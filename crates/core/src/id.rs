//! Identifiers: a prefix that names the kind and 128 bits in lower-case Crockford base 32.
//!
//! The first 64 bits are the milliseconds since 1970 and a counter, so ids of one process sort in the order they were
//! made, and lower case sorts alike in every database collation. The rest is random. In memory an id is 16 bytes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LENGTH: usize = 26;

/// What each byte is worth as a digit: a node reads millions of ids when it starts.
const WORTH: [u8; 256] = {
    let mut worth = [NO_DIGIT; 256];
    let mut value: u8 = 0;
    while (value as usize) < ALPHABET.len() {
        worth[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    worth
};
const NO_DIGIT: u8 = u8::MAX;

/// What an [`Id`] identifies: its prefix on the wire and its name in messages.
pub trait Identified: 'static {
    const PREFIX: &'static str;
    const NAME: &'static str;
}

/// The id of a `K`. Parsing accepts only what [`fmt::Display`] prints.
pub struct Id<K> {
    /// Time and counter.
    high: u64,
    /// Random. Two halves, for one number of 128 bits would be aligned to 16 bytes, which millions of keys notice.
    low: u64,
    kind: PhantomData<fn() -> K>,
}

impl<K: Identified> Id<K> {
    /// As `to_string`, for the path of a request: in one piece of memory.
    pub fn text(self) -> String {
        let mut text = String::with_capacity(K::PREFIX.len() + TEXT_LENGTH);
        text.push_str(K::PREFIX);
        text.push_str(std::str::from_utf8(&self.digits()).unwrap_or_default());
        text
    }

    const fn bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    fn digits(self) -> [u8; TEXT_LENGTH] {
        let mut digits = [0; TEXT_LENGTH];
        let mut rest = self.bits();
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        digits
    }

    /// Wraps 128 bits made by [`crate::time::Clock::next_id`].
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    pub const fn from_bits(value: u128) -> Self {
        Self { high: (value >> 64) as u64, low: value as u64, kind: PhantomData }
    }

    /// The part of it that is random.
    pub fn random(self) -> u64 {
        self.low
    }

    /// When it was made, from its first bits.
    pub fn created_at(self) -> Timestamp {
        Timestamp(i64::try_from(self.high >> 16).unwrap_or(0) / 1000)
    }

    /// The least id that can have been made at `at` or later.
    pub fn first_at(at: Timestamp) -> Self {
        let millis = u128::try_from(at.0.saturating_mul(1000)).unwrap_or(0);
        Self::from_bits(millis << 80)
    }

    /// Reads an id; `None` for whatever this installation cannot have issued.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(K::PREFIX)?.as_bytes();
        if digits.len() != TEXT_LENGTH || digits[0] > b'7' {
            return None;
        }
        let mut value: u128 = 0;
        let mut seen = 0;
        for digit in digits {
            let worth = WORTH[usize::from(*digit)];
            seen |= worth;
            value = (value << 5) | u128::from(worth);
        }
        (seen < 32).then(|| Self::from_bits(value))
    }
}

impl<K: Identified> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::PREFIX)?;
        f.write_str(std::str::from_utf8(&self.digits()).map_err(|_| fmt::Error)?)
    }
}

impl<K: Identified> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        (self.high, self.low) == (other.high, other.low)
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.high, self.low).cmp(&(other.high, other.low))
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.high, self.low).hash(state);
    }
}

impl<K: Identified> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: Identified> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format_args!("no such {}", K::NAME)))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $alias:ident = $kind:ident, $prefix:literal, $name:literal;)*) => {
        /// The kinds of things that have an [`Id`].
        pub mod kind {
            $(pub enum $kind {})*
        }
        $(
            impl Identified for kind::$kind {
                const PREFIX: &'static str = $prefix;
                const NAME: &'static str = $name;
            }
            $(#[$doc])*
            pub type $alias = Id<kind::$kind>;
        )*
    };
}

ids! {
    OrganizationId = Organization, "org-", "organization";
    ProjectId = Project, "proj_", "project";
    UserId = User, "user-", "user";
    ServiceAccountId = ServiceAccount, "svc_acct_", "service account";
    /// An API key of any kind: project, service account or admin.
    KeyId = Key, "key_", "API key";
    /// One dispatch to an upstream. The first attempt of a request has the id the client sees as `x-request-id`.
    AttemptId = Attempt, "req_", "request";
    AuditLogId = AuditLog, "audit_log-", "audit log";
    UpstreamId = Upstream, "upstream_", "upstream";
    SpendLimitId = SpendLimit, "spend_limit_", "spend limit";
    /// A correction or a refund.
    AdjustmentId = Adjustment, "adj_", "adjustment";
    RoleId = Role, "role_", "role";
    GroupId = Group, "group_", "group";
    InviteId = Invite, "invite-", "invite";
    SpendAlertId = SpendAlert, "spend_alert_", "spend alert";
    EventAlertId = EventAlert, "event_alert_", "event alert";
    /// Somebody who is signed in to the console.
    SessionId = Session, "session_", "session";
    NotificationId = Notification, "notification_", "notification";
}

/// Who owns a key and is accountable for what it spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    User(UserId),
    ServiceAccount(ServiceAccountId),
}

impl Principal {
    pub fn parse(text: &str) -> Option<Self> {
        UserId::parse(text)
            .map(Self::User)
            .or_else(|| ServiceAccountId::parse(text).map(Self::ServiceAccount))
    }

    pub fn user(self) -> Option<UserId> {
        match self {
            Self::User(id) => Some(id),
            Self::ServiceAccount(_) => None,
        }
    }

    pub fn service_account(self) -> Option<ServiceAccountId> {
        match self {
            Self::ServiceAccount(id) => Some(id),
            Self::User(_) => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::ServiceAccount(id) => id.fmt(f),
        }
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text(value: u128) {
            let id = ProjectId::from_bits(value);
            prop_assert_eq!(ProjectId::parse(&id.to_string()), Some(id));
            prop_assert_eq!(id.text(), id.to_string());
        }

        #[test]
        fn ids_sort_as_their_texts(a: u128, b: u128) {
            let (a, b) = (UserId::from_bits(a), UserId::from_bits(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_parses_or_is_refused_without_panic(text: String) {
            let _ = ProjectId::parse(&text);
            let _ = ProjectId::parse(&format!("proj_{text}"));
        }
    }

    #[test]
    fn a_second_spelling_of_an_id_is_refused() {
        let id = ProjectId::from_bits(7).to_string();
        assert_eq!(ProjectId::parse(&id.to_uppercase()), None);
        assert_eq!(ProjectId::parse(&id.replace("proj_", "user-")), None);
        assert_eq!(ProjectId::parse("proj_80000000000000000000000000"), None, "more than 128 bits");
    }
}
