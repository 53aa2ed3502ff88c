//! What is counted of the data path.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tollgate_core::metrics::{Family, Histogram};
use tollgate_core::{Error, UpstreamId};

/// The status of an answer that never came.
pub const NO_STATUS: u16 = 0;

#[derive(Default)]
pub struct Figures {
    /// What a request took apart from its client's body and its upstream.
    pub overhead: Family<(), Histogram>,
    /// From the request to the end of the answer, by upstream, model and status.
    pub upstreams: Family<(UpstreamId, Arc<str>, u16), Histogram>,
    /// From the head of the request to the first piece of a streamed answer.
    pub first_chunk: Family<(), Histogram>,
    /// By the code of the error.
    pub refused: Family<&'static str, u64>,
    pub auth_failures: Family<&'static str, u64>,
    under_way: AtomicUsize,
}

impl Figures {
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Counts a request as under way until the answer is dropped; `None` if there are `most` already.
    pub(crate) fn begin(&self, most: usize) -> Option<UnderWay<'_>> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(self);
        (before < most).then_some(under_way)
    }

    /// Says under which name it is counted.
    pub(crate) fn note_refusal(&self, error: &Error) -> &'static str {
        let reason = error.code.unwrap_or_else(|| error.kind.wire().1);
        self.refused.count(reason);
        if error.status() == 401 {
            self.auth_failures.count(reason);
        }
        reason
    }
}

pub(crate) struct UnderWay<'f>(&'f Figures);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
