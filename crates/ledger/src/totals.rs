//! What was settled since the start, by project and model: for metrics. The books are in the database.

use std::sync::Arc;

use tollgate_core::metrics::{Family, Figure};
use tollgate_core::{Money, ProjectId};

use crate::sums::Sums;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub requests: u64,
    /// Neither read from the cache nor written to it.
    pub input: u64,
    pub cached_input: u64,
    pub cache_write: u64,
    pub output: u64,
    pub cost: Money,
}

impl Figure for Total {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input += other.input;
        self.cached_input += other.cached_input;
        self.cache_write += other.cache_write;
        self.output += other.output;
        self.cost += other.cost;
    }
}

#[derive(Default)]
pub struct Totals(Family<(ProjectId, Arc<str>), Total>);

impl Totals {
    pub(crate) fn add(&self, settled: &[(ProjectId, Arc<str>, Sums)]) {
        for (project, model, sums) in settled {
            let count = |tokens: i64| tokens.max(0).unsigned_abs();
            let total = Total {
                requests: 1,
                input: count(sums.uncached_input_tokens()),
                cached_input: count(sums.cached_input_tokens),
                cache_write: count(sums.cache_write_tokens),
                output: count(sums.output_tokens),
                cost: sums.cost(),
            };
            self.0.update((*project, Arc::clone(model)), |all| all.add(&total));
        }
    }

    pub fn read(&self) -> impl Iterator<Item = ((ProjectId, Arc<str>), Total)> {
        self.0.read().into_iter()
    }
}
