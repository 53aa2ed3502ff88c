//! A hold in the hands of the gateway. It is resolved exactly once, whatever happens to the task that carries it: its
//! types have no other way to end, and dropping one ends it too.

use std::sync::Arc;

use tollgate_core::Money;
use tollgate_core::price::TokenUsage;

use crate::attempt::{Attempt, Outcome, UsageSource};
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
    attempt: Arc<Attempt>,
    remaining: Option<Money>,
}

/// Output that passed by, for when the upstream never says what it was.
#[derive(Clone, Copy, Default)]
struct Seen {
    pieces: u64,
    text_bytes: u64,
}

/// Text of a provider's answer per token, by the usual rule of thumb.
const BYTES_PER_TOKEN: u64 = 4;

impl Open {
    fn end(self, outcome: Outcome) {
        self.ledger.resolve(self.attempt, outcome);
    }
}

impl Hold {
    pub(crate) fn new(ledger: Ledger, attempt: Arc<Attempt>, remaining: Option<Money>) -> Self {
        Self(Some(Open { ledger, attempt, remaining }))
    }

    pub fn attempt(&self) -> &Attempt {
        match &self.0 {
            Some(open) => &open.attempt,
            None => unreachable!("a hold is emptied only by what consumes it"),
        }
    }

    /// What is left of the tightest budget after this hold; `None` without a limit.
    pub fn remaining(&self) -> Option<Money> {
        self.0.as_ref().and_then(|open| open.remaining)
    }

    /// From the first byte sent on, the request counts as one that may be billed.
    pub fn dispatch(mut self) -> Dispatched {
        Dispatched { open: self.0.take(), seen: Seen::default() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.end(Outcome::Voided);
        }
    }
}

impl Dispatched {
    /// Notes a piece of output on its way to the client.
    pub fn observe(&mut self, text_bytes: u64) {
        self.seen.pieces += 1;
        self.seen.text_bytes += text_bytes;
    }

    /// The upstream said what it used.
    pub fn settle(mut self, usage: TokenUsage) {
        if let Some(open) = self.open.take() {
            let outcome = open.attempt.settled(UsageSource::Upstream, usage);
            open.end(outcome);
        }
    }

    /// The upstream certainly did no work: it refused, or was never reached.
    pub fn void(mut self) {
        if let Some(open) = self.open.take() {
            open.end(Outcome::Voided);
        }
    }

    /// The end without word from the upstream. Under a hard limit it is charged at its bound, for the provider may
    /// bill what was not seen here; elsewhere by the text that was seen, if any was.
    fn unknown(open: &Open, seen: Seen) -> Outcome {
        let is_limited = open.remaining.is_some();
        if is_limited || seen.pieces == 0 {
            return open.attempt.at_bound();
        }
        let usage = TokenUsage {
            input: open.attempt.input_estimate,
            // Providers mostly send a token a piece; those that send more show it by the length.
            output: seen.pieces.max(seen.text_bytes.div_ceil(BYTES_PER_TOKEN)),
            ..TokenUsage::default()
        };
        open.attempt.settled(UsageSource::Observed, usage)
    }
}

impl Drop for Dispatched {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let outcome = Self::unknown(&open, self.seen);
            open.end(outcome);
        }
    }
}
