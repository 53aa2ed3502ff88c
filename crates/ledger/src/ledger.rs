//! The ledger: whatever arrived while one batch was being written makes the next batch.
//!
//! The queue is filled from request tasks and emptied on the database's writing thread, so that accounting is never
//! owned by a task that may be cancelled. At most one batch is being written at a time. A strict hold is answered when it
//! is on disk; an overlapping one as soon as it is written, while the disk catches up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tollgate_core::budget::{Limits, Mode, Payer};
use tollgate_core::{Clock, Error, Result};
use tollgate_store::{Ballast, Commit, DataDir, Db, Tx};

use crate::attempt::{Attempt, Ending};
use crate::batch::End;
use crate::hold::{Held, Hold};
use crate::post;
use crate::queue::{Asking, Entry, Queue, Refused};
use crate::spend_limit::Known;
use crate::totals::Totals;

/// Holds that may stand in the queue; beyond it callers are told to come back.
const QUEUE_MAX: usize = 20_000;
const TICK: Duration = Duration::from_millis(500);

/// When a hold counts as taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On disk where a hard limit applies, elsewhere while the disk catches up.
    #[default]
    Auto,
    /// On disk, always.
    Strict,
    /// Written to the operating system; the client sees nothing before it is on disk.
    Overlap,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub durability: Durability,
    /// Below so many free bytes on the disk no new request is admitted, so that the end of those in flight can always
    /// be written.
    pub free_bytes_min: u64,
    /// Bytes put aside on the disk, and given back when there is no room left to write ends.
    pub ballast_bytes: u64,
}

/// A handle to the ledger; clones share one queue.
#[derive(Clone)]
pub struct Ledger(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    /// Where the embedded database is. The room of a server's is for the server to watch.
    directory: Option<DataDir>,
    pub(crate) ballast: Ballast,
    options: Options,
    queue: Mutex<Queue>,
    /// The limits as the last batch saw them, and how to bring them up to date.
    known: Mutex<Known>,
    limits: ArcSwap<Limits>,
    is_storage_low: AtomicBool,
    /// How long holds last, in milliseconds: a moving average.
    hold_millis: AtomicU64,
    pub(crate) totals: Totals,
    /// Told when somebody begins to wait, whose patience has an end.
    pub(crate) waits: Notify,
}

impl Ledger {
    pub fn new(db: Db, directory: Option<DataDir>, clock: Clock, options: Options) -> Self {
        let ballast = Ballast::new(directory.as_ref(), options.ballast_bytes);
        let ledger = Self(Arc::new(Inner {
            db,
            clock,
            directory,
            ballast,
            options,
            queue: Mutex::default(),
            known: Mutex::default(),
            limits: ArcSwap::default(),
            is_storage_low: AtomicBool::new(false),
            hold_millis: AtomicU64::new(1_000),
            totals: Totals::default(),
            waits: Notify::new(),
        }));
        ledger.look_at_storage();
        ledger
    }

    /// Reserves what `attempt` can cost at most, on every budget it belongs to, waiting up to `patience` if the money is
    /// only held by requests in flight. A refusal says which limit refused, and nothing was reserved.
    pub async fn hold(&self, attempt: Attempt, patience: Option<Duration>) -> Result<Hold, Refused> {
        if self.0.is_storage_low.load(Ordering::Relaxed) {
            let message = "The server's disk is nearly full. Nothing was sent.";
            return Err(Refused::Error(Error::unavailable("storage_low", message)));
        }
        let (answer, receiver) = oneshot::channel();
        let is_strict = self.is_strict(self.is_limited(&attempt.payer));
        let patience = patience.map(|patience| Instant::now() + patience);
        let asking = Asking { attempt: Arc::new(attempt), patience, is_strict, answer };
        if !self.submit(Entry::Ask(asking), QUEUE_MAX) {
            let message = "The server has too much to do. Please try again.";
            return Err(Refused::Error(Error::unavailable("overloaded", message)));
        }
        // If the caller goes away while it waits, the hold is dropped with the channel, and so voided.
        post::arrival(receiver).await.unwrap_or_else(|_| Err(Refused::Error(shutting_down())))
    }

    pub(crate) fn end(&self, held: Arc<Held>, ending: Ending, after: Duration) {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let average = self.0.hold_millis.load(Ordering::Relaxed);
        self.0.hold_millis.store((average.saturating_mul(15).saturating_add(millis)) / 16, Ordering::Relaxed);
        self.submit(Entry::End(End { held, ending }), usize::MAX);
    }

    /// What was settled since the start.
    pub fn totals(&self) -> &Totals {
        &self.0.totals
    }

    /// How long what waits longest to be written has waited.
    pub fn lag(&self) -> Duration {
        self.queue().oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// In how many seconds what is held now may be free again.
    pub(crate) fn retry_after(&self) -> u64 {
        self.0.hold_millis.load(Ordering::Relaxed).div_ceil(1_000).clamp(1, 30)
    }

    pub(crate) async fn on_disk(&self, commit: Commit) {
        post::arrival(self.0.db.synced(commit)).await;
    }

    /// Whether a hard limit applies to a payer's requests, as of the last batch.
    fn is_limited(&self, payer: &Payer) -> bool {
        self.0.limits.load().path(payer).iter().any(|limit| limit.mode == Mode::Enforce)
    }

    pub(crate) fn is_strict(&self, is_limited: bool) -> bool {
        match self.0.options.durability {
            Durability::Auto => is_limited,
            Durability::Strict => true,
            Durability::Overlap => false,
        }
    }

    /// The limits that this very transaction sees. Called on the writing thread.
    pub(crate) async fn limits(&self, tx: &mut Tx) -> Result<Arc<Limits>> {
        let lock = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = std::mem::take(&mut *lock());
        let refreshed = known.refresh(tx).await;
        if let Ok(true) = refreshed {
            self.0.limits.store(Arc::new(known.limits.clone()));
        }
        *lock() = known;
        refreshed.map(|_| self.0.limits.load_full())
    }

    /// Looks again at everybody who waits: a limit was changed.
    pub fn reconsider(&self) {
        let mut queue = self.queue();
        queue.is_reconsidering = queue.is_anybody_waiting();
        self.schedule_if_due(queue);
    }

    /// Returns once everything submitted before is on disk.
    pub async fn flush(&self) {
        let (answer, receiver) = oneshot::channel();
        if self.submit(Entry::Flush(answer), usize::MAX) {
            let _ = receiver.await;
        }
    }

    /// Looks at the free space, ends the patience of those who wait, and tries again what could not be written. Never
    /// returns; drop it to stop.
    pub async fn keep_house(&self) {
        loop {
            let next = self.queue().next_impatient();
            let nap = next.map_or(TICK, |at| at.saturating_duration_since(Instant::now()).min(TICK));
            let _ = tokio::time::timeout(nap, self.0.waits.notified()).await;
            self.look_at_storage();
            let mut queue = self.queue();
            queue.end_patience(Instant::now());
            self.schedule_if_due(queue);
        }
    }

    pub(crate) fn look_at_storage(&self) {
        let Options { free_bytes_min, ballast_bytes, .. } = self.0.options;
        let Some(directory) = &self.0.directory else {
            self.0.is_storage_low.store(false, Ordering::Relaxed);
            return;
        };
        match directory.free_bytes() {
            Ok(free) => {
                if free >= free_bytes_min.saturating_add(ballast_bytes) {
                    self.0.ballast.reserve();
                }
                // The room that was given back is for ends, and not for new requests.
                let is_low = free < free_bytes_min || self.0.ballast.is_spent();
                if self.0.is_storage_low.swap(is_low, Ordering::Relaxed) != is_low {
                    tracing::warn!(free_bytes = free, is_low, "free space of the data directory");
                }
            }
            Err(error) => tracing::error!(%error, "the free space of the data directory is not known"),
        }
    }

    /// The disk had no room for a batch.
    pub(crate) fn out_of_storage(&self) {
        self.0.is_storage_low.store(true, Ordering::Relaxed);
        if self.0.ballast.release() {
            tracing::warn!("the disk is full: the room that was put aside is given back");
        }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, entry: Entry, queue_max: usize) -> bool {
        let mut queue = self.queue();
        if queue.len() >= queue_max {
            return false;
        }
        queue.push(entry);
        self.schedule_if_due(queue);
        true
    }

    pub(crate) fn schedule_if_due(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.is_due() {
            queue.is_scheduled = true;
            drop(queue);
            self.schedule();
        }
    }
}

pub(crate) fn shutting_down() -> Error {
    Error::unavailable("shutting_down", "The server is shutting down.")
}
