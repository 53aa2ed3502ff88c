//! Time as a value. Nothing else in the workspace asks the machine what time it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::id::{Id, Identified};

/// Seconds since 1970-01-01T00:00:00Z, as on OpenAI's wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The start of the bucket of `width_seconds` that holds this moment, aligned to UTC.
    #[must_use]
    pub const fn floor_to(self, width_seconds: i64) -> Self {
        Self(self.0.div_euclid(width_seconds) * width_seconds)
    }

    /// The beginning of a day of UTC, such as `2026-11-01`.
    pub fn of_day(text: &str) -> Option<Self> {
        let is_day = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let day: jiff::civil::Date = text.parse().ok().filter(|_| is_day)?;
        let start = day.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Self(start.timestamp().as_second()))
    }

    /// A moment with its offset from UTC, such as `2026-11-01T09:30:00Z`.
    pub fn of_text(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|at| Self(at.as_second()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}

/// The source of the current time and of ids that sort by it. Clones share one clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    source: Source,
    /// Milliseconds and a counter of the last id, so that ids of one millisecond stay in order.
    last_id: AtomicU64,
}

/// Ten seconds, in milliseconds and a counter of 16 bits: further ahead of the clock ids do not run.
const AHEAD_MAX: u64 = 10_000 << 16;

enum Source {
    System,
    Manual(AtomicI64),
}

impl Clock {
    pub fn system() -> Self {
        Self::with(Source::System)
    }

    /// A clock that stands still until it is turned by [`Clock::advance`]. For tests.
    pub fn manual(start: Timestamp) -> Self {
        Self::with(Source::Manual(AtomicI64::new(start.0 * 1000)))
    }

    fn with(source: Source) -> Self {
        Self(Arc::new(Inner { source, last_id: AtomicU64::new(0) }))
    }

    /// Turns a manual clock forward; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(millis) = &self.0.source {
            millis.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.now_millis().div_euclid(1000))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now_millis(&self) -> i64 {
        match &self.0.source {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            Source::Manual(millis) => millis.load(Ordering::SeqCst),
        }
    }

    /// Makes an id that sorts after every id this clock made before.
    pub fn next_id<K: Identified>(&self) -> Id<K> {
        let now = u64::try_from(self.now_millis()).unwrap_or(0) << 16;
        // A clock that was put back far takes the ids back with it: their time matters more than their order.
        let follow = |last: u64| if last > now + AHEAD_MAX { now } else { now.max(last + 1) };
        let previous = self
            .0
            .last_id
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(follow(last)))
            .unwrap_or_default();
        let order = follow(previous);
        Id::from_bits((u128::from(order) << 64) | u128::from(crate::secret::random_u64()))
    }
}

/// Measures how long something took, whatever the wall clock does.
#[derive(Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is the stopwatch")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ProjectId;

    #[test]
    fn ids_of_one_moment_keep_their_order() {
        let clock = Clock::manual(Timestamp(1_000));
        let ids: Vec<ProjectId> = (0..1_000).map(|_| clock.next_id()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.created_at() == Timestamp(1_000)));
        assert!(
            ids[0] >= ProjectId::first_at(Timestamp(1_000))
                && ids[999] < ProjectId::first_at(Timestamp(1_001))
        );
        clock.advance(Duration::from_secs(1));
        assert!(clock.next_id::<crate::id::kind::Project>() > ids[999]);
    }

    #[test]
    fn ids_follow_a_clock_that_is_put_back_far_and_ignore_a_small_step() {
        let clock = Clock::manual(Timestamp(10_000));
        let Source::Manual(millis) = &clock.0.source else { unreachable!() };
        let first: ProjectId = clock.next_id();
        millis.fetch_sub(5_000, Ordering::SeqCst);
        assert!(clock.next_id() > first);
        millis.fetch_sub(3_600_000, Ordering::SeqCst);
        let back: ProjectId = clock.next_id();
        assert_eq!(back.created_at(), Timestamp(6_395));
        assert!(clock.next_id() > back);
    }
}
