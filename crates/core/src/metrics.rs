//! Figures of a running node, by labels. Each thread writes to a shard of its own, so that workers do not wait for each
//! other; whoever reads adds the shards up.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const SHARDS: usize = 16;

/// What can be added up.
pub trait Figure: Clone + Default {
    fn add(&mut self, other: &Self);
}

impl Figure for u64 {
    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }
}

/// Figures of one kind, one for each set of labels.
pub struct Family<L, V>([Mutex<HashMap<L, V, foldhash::fast::RandomState>>; SHARDS]);

impl<L, V> Default for Family<L, V> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<L: Clone + Eq + Hash + Ord, V: Figure> Family<L, V> {
    pub fn update(&self, labels: L, change: impl FnOnce(&mut V)) {
        let mut shard = self.0[shard()].lock().unwrap_or_else(PoisonError::into_inner);
        change(shard.entry(labels).or_default());
    }

    /// The sums over all shards, which begin anew.
    pub fn take(&self) -> BTreeMap<L, V> {
        let mut all: BTreeMap<L, V> = BTreeMap::new();
        for shard in &self.0 {
            let taken = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            for (labels, value) in taken {
                all.entry(labels).or_default().add(&value);
            }
        }
        all
    }

    /// The sums over all shards.
    pub fn read(&self) -> BTreeMap<L, V> {
        let mut all: BTreeMap<L, V> = BTreeMap::new();
        for shard in &self.0 {
            for (labels, value) in shard.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                all.entry(labels.clone()).or_default().add(value);
            }
        }
        all
    }
}

impl<L: Clone + Eq + Hash + Ord> Family<L, u64> {
    pub fn count(&self, labels: L) {
        self.update(labels, |count| *count += 1);
    }
}

impl<L: Clone + Eq + Hash + Ord> Family<L, Histogram> {
    pub fn observe(&self, labels: L, time: Duration) {
        self.update(labels, |histogram| histogram.observe(time));
    }
}

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        let shard = own.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        own.set(Some(shard));
        shard
    })
}

/// How long things took.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u64; Self::BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Upper ends of the buckets in microseconds: from what a gateway adds to what a model takes.
    pub const BOUNDS: [u64; 22] = [
        50,
        100,
        250,
        500,
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        120_000_000,
        300_000_000,
        600_000_000,
    ];

    pub fn observe(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = Self::BOUNDS.partition_point(|bound| *bound < micros);
        self.counts[bucket] += 1;
        self.sum += time;
    }

    /// The upper end of each bucket in microseconds, the last without one, and how many took no longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = Self::BOUNDS.into_iter().map(Some).chain([None]);
        let mut sum = 0;
        bounds.zip(self.counts).map(move |(bound, count)| {
            sum += count;
            (bound, sum)
        })
    }

    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// How many there are in each bucket, by its upper end in microseconds; those of the last have none.
    pub fn counts(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        Self::BOUNDS.into_iter().map(Some).chain([None]).zip(self.counts)
    }

    /// Counts as many more into the bucket with this upper end. One that is none of its ends is counted into the bucket it lies in.
    pub fn add_to(&mut self, bound: Option<u64>, count: u64) {
        let bucket =
            bound.map_or(Self::BOUNDS.len(), |micros| Self::BOUNDS.partition_point(|end| *end < micros));
        self.counts[bucket] += count;
    }

    /// What so many percent of them did not exceed: within its bucket they are taken to be spread evenly. `None` if there are
    /// none; of what is longer than the longest bound, that bound.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u64 = self.counts.iter().sum();
        let rank = all.saturating_mul(percent).div_ceil(100).max(1);
        let (mut below, mut lower) = (0, 0);
        for (bound, count) in self.counts() {
            let upper = bound.unwrap_or(lower);
            if count > 0 && below + count >= rank {
                let part = u128::from(upper - lower) * u128::from(rank - below) / u128::from(count);
                return Some(Duration::from_micros(lower + u64::try_from(part).unwrap_or(u64::MAX)));
            }
            (below, lower) = (below + count, upper);
        }
        None
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; Self::BOUNDS.len() + 1], sum: Duration::ZERO }
    }
}

impl Figure for Histogram {
    fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_count_is_one_sum() {
        let family: Family<&'static str, u64> = Family::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..100).for_each(|_| family.count("a")));
            }
        });
        family.count("b");
        assert_eq!(family.read(), BTreeMap::from([("a", 2_000), ("b", 1)]));
        assert_eq!(family.take(), BTreeMap::from([("a", 2_000), ("b", 1)]));
        assert_eq!(family.read(), BTreeMap::new());
    }

    #[test]
    fn a_time_is_in_the_first_bucket_that_it_does_not_exceed() {
        let family: Family<(), Histogram> = Family::default();
        for micros in [0, 50, 51, 600_000_000, 600_000_001] {
            family.observe((), Duration::from_micros(micros));
        }
        let histogram = family.read().remove(&()).unwrap();
        let counts: Vec<_> = histogram.cumulative().collect();
        assert_eq!((counts[0], counts[1]), ((Some(50), 2), (Some(100), 3)));
        assert_eq!(counts[21..], [(Some(600_000_000), 4), (None, 5)]);
        assert_eq!(histogram.sum(), Duration::from_micros(1_200_000_102));
    }

    #[test]
    fn a_share_of_all_took_no_longer() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(95), None);
        for _ in 0..100 {
            histogram.observe(Duration::from_micros(75));
        }
        // All lie between 50 and 100 microseconds; where, nobody knows.
        assert_eq!(histogram.percentile(50), Some(Duration::from_micros(75)));
        assert_eq!(histogram.percentile(100), Some(Duration::from_micros(100)));
        let mut again = Histogram::default();
        histogram.counts().for_each(|(bound, count)| again.add_to(bound, count));
        assert!(again.counts().eq(histogram.counts()));
        histogram.add_to(None, 900);
        assert_eq!(histogram.percentile(95), Some(Duration::from_mins(10)));
    }
}
