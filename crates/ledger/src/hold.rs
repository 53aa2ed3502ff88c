//! A hold in the hands of the gateway. It is resolved exactly once, whatever happens to the task that carries it: its
//! types have no other way to end, and dropping one ends it too.

use std::sync::Arc;

use tollgate_core::Money;
use tollgate_core::budget::Granted;
use tollgate_core::price::{Request, TokenUsage};
use tollgate_core::time::Stopwatch;
use tollgate_store::Commit;

use crate::attempt::{Attempt, Ending, Reported, Seen};
use crate::ledger::Ledger;

/// Money reserved for a request that was not sent yet. Dropped, it is voided: nothing was sent.
#[must_use = "a hold is given to the dispatch to an upstream, or dropped to give the money back"]
pub struct Hold(Option<Open>);

/// A hold whose request may have reached the upstream. Dropped without a word, it is settled by what was seen, or at
/// its bound.
pub struct Dispatched {
    open: Option<Open>,
    seen: Seen,
}

struct Open {
    ledger: Ledger,
    held: Arc<Held>,
    commit: Commit,
    since: Stopwatch,
}

/// What is on the books: an attempt and what was reserved for it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) attempt: Arc<Attempt>,
    pub(crate) granted: Granted,
}

impl Open {
    fn end(self, ending: Ending) {
        self.ledger.end(self.held, ending, self.since.elapsed());
    }
}

impl Hold {
    pub(crate) fn new(ledger: Ledger, held: Arc<Held>, commit: Commit) -> Self {
        Self(Some(Open { ledger, held, commit, since: Stopwatch::start() }))
    }

    fn held(&self) -> &Held {
        match &self.0 {
            Some(open) => &open.held,
            None => unreachable!("a hold is emptied only by what consumes it"),
        }
    }

    pub fn attempt(&self) -> &Attempt {
        &self.held().attempt
    }

    pub fn granted(&self) -> &Granted {
        &self.held().granted
    }

    /// What is left of the tightest budget after this hold; `None` without a hard limit.
    pub fn remaining(&self) -> Option<Money> {
        self.granted().remaining
    }

    /// From the first byte sent on, the request counts as one that may be billed.
    pub fn dispatch(mut self) -> Dispatched {
        Dispatched { open: self.0.take(), seen: Seen::default() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.end(Ending::Voided);
        }
    }
}

impl Dispatched {
    /// Returns when the hold is on disk. Until then nothing of the answer goes to the client.
    pub async fn on_disk(&self) {
        if let Some(open) = &self.open {
            open.ledger.on_disk(open.commit).await;
        }
    }

    /// What was granted; `None` once it is over.
    pub fn request(&self) -> Option<&Request> {
        self.open.as_ref().map(|open| &open.held.granted.request)
    }

    /// Notes what was seen of the answer so far, as usage, for when the upstream never says.
    pub fn observe(&mut self, seen: TokenUsage) {
        self.seen.usage = Some(seen);
    }

    /// Notes the most tokens that the input is, counted more closely than its bound was.
    pub fn count_input(&mut self, tokens: u64) {
        self.seen.input_max = Some(tokens);
    }

    /// The answer came to its end, with or without word of its usage.
    pub fn settle(mut self, reported: Reported) {
        self.end(|seen| Ending::Ended { reported, seen });
    }

    /// The connection was closed because the client had gone, to an upstream that then stops and bills no more.
    /// `is_shown`: what it makes shows as it is made.
    pub fn cancel(mut self, is_shown: bool) {
        self.end(|seen| Ending::Cancelled { seen, is_shown });
    }

    /// The upstream certainly did no work: it refused, or was never reached.
    pub fn void(mut self) {
        self.end(|_| Ending::Voided);
    }

    fn end(&mut self, ending: impl FnOnce(Seen) -> Ending) {
        if let Some(open) = self.open.take() {
            open.end(ending(self.seen));
        }
    }
}

impl Drop for Dispatched {
    fn drop(&mut self) {
        self.end(|seen| Ending::Ended { reported: Reported::default(), seen });
    }
}
