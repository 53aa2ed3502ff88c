//! What the simulated provider did and what it would charge for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// One request that arrived.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// The caller's, from `x-request-id`.
    pub(crate) request_id: String,
    pub(crate) model: String,
    pub(crate) started_at: i64,
    /// Whether the whole answer was handed to the connection.
    pub(crate) finished: bool,
    pub(crate) billed_input: u64,
    pub(crate) billed_output: u64,
}

#[derive(Default)]
pub(crate) struct Books(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    entries: HashMap<u64, Entry>,
}

impl Books {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, entry: Entry) -> u64 {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        inner.entries.insert(number, entry);
        number
    }

    pub(crate) fn bill(&self, number: u64, input: u64, output: u64) {
        if let Some(entry) = self.inner().entries.get_mut(&number) {
            (entry.billed_input, entry.billed_output) = (input, output);
        }
    }

    /// What it stopped at.
    pub(crate) fn bill_no_more_than(&self, number: u64, output: u64) {
        if let Some(entry) = self.inner().entries.get_mut(&number) {
            entry.billed_output = entry.billed_output.min(output);
        }
    }

    pub(crate) fn finish(&self, number: u64) {
        if let Some(entry) = self.inner().entries.get_mut(&number) {
            entry.finished = true;
        }
    }

    /// In the order of arrival.
    pub(crate) fn list(&self) -> Vec<Entry> {
        let inner = self.inner();
        let mut numbers: Vec<_> = inner.entries.keys().copied().collect();
        numbers.sort_unstable();
        numbers.iter().map(|number| inner.entries[number].clone()).collect()
    }

    pub(crate) fn clear(&self) {
        self.inner().entries.clear();
    }
}
