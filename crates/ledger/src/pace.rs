//! How long a batch waits for more to join it.
//!
//! Most of what a small batch costs is the sync of the log and the commit, whatever is in it. When requests come by the
//! thousand in a second, batches begin a few milliseconds apart, which nobody sees in front of a model that takes a
//! hundred times as long; when they come one by one, none waits.

use std::time::Duration;

use tollgate_core::time::Stopwatch;

/// Between the beginnings of two batches at full load.
const PERIOD: Duration = Duration::from_millis(5);
/// When nobody came for so long, everybody is here.
pub(crate) const STEP: Duration = Duration::from_micros(500);
/// So many entries in a period make it worth waiting for them: some thousands of requests a second.
const WORTH: u64 = 40;
/// The weight of the past in the average of what comes in a period.
const SMOOTH: u64 = 4;

#[derive(Default)]
pub(crate) struct Pace {
    since: Option<Stopwatch>,
    /// Entries that come in a period, on average.
    in_period: u64,
}

impl Pace {
    /// How long the next batch should wait before it takes what there is.
    pub(crate) fn linger(&self) -> Duration {
        match &self.since {
            Some(since) if self.in_period >= WORTH => PERIOD.saturating_sub(since.elapsed()),
            _ => Duration::ZERO,
        }
    }

    /// A batch took so many entries.
    pub(crate) fn took(&mut self, entries: usize) {
        let elapsed = self.since.as_ref().map_or(PERIOD, |since| since.elapsed());
        self.note(entries as u64, elapsed);
        self.since = Some(Stopwatch::start());
    }

    fn note(&mut self, entries: u64, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        let period = u64::try_from(PERIOD.as_micros()).unwrap_or(u64::MAX);
        let in_period = entries.saturating_mul(period) / micros;
        self.in_period = (self.in_period.saturating_mul(SMOOTH - 1) + in_period) / SMOOTH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(batches: &[(u64, u64)]) -> Pace {
        let mut pace = Pace { since: Some(Stopwatch::start()), in_period: 0 };
        for (entries, micros) in batches {
            pace.note(*entries, Duration::from_micros(*micros));
        }
        pace
    }

    #[test]
    fn only_many_in_a_short_time_are_waited_for() {
        let one_by_one = [(1, 700); 50];
        assert_eq!(after(&one_by_one).linger(), Duration::ZERO);
        let many = [(20, 1_000); 50];
        assert!(after(&many).linger() > Duration::ZERO);
        // They keep coming at this pace, and then they cease.
        assert!(after(&[(60, 3_000); 50]).in_period >= WORTH);
        let ceased: Vec<_> = [(20, 1_000); 50].into_iter().chain([(1, 5_000); 20]).collect();
        assert_eq!(after(&ceased).linger(), Duration::ZERO);
    }

    #[test]
    fn a_batch_after_a_pause_does_not_wait() {
        let mut pace = after(&[(1_000, 1_000); 50]);
        pace.since = None;
        assert_eq!(pace.linger(), Duration::ZERO);
        pace.took(0);
        assert!(pace.linger() <= PERIOD);
    }
}
