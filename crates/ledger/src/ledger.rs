//! The ledger's queue: whatever arrived while one batch was being written makes the next batch.
//!
//! The queue is filled from request tasks and emptied on the database's writing thread, so that accounting is never
//! owned by a task that may be cancelled. At most one batch is on its way at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tollgate_core::{Clock, Error, Result};
use tollgate_store::{DataDir, Db};

use crate::attempt::{Attempt, Outcome};
use crate::batch::{self, Decision};
use crate::hold::Hold;

/// Requests decided together. At full load a commit takes about a millisecond; more would only make them wait longer.
const BATCH_MAX: usize = 512;
/// Holds that may wait for a decision; beyond it callers are told to come back.
const WAITING_MAX: usize = 20_000;
const TICK: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct Options {
    /// Below so many free bytes on the disk no new request is admitted, so that the end of those in flight can always
    /// be written.
    pub free_bytes_min: u64,
}

/// A handle to the ledger; clones share one queue.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    db: Db,
    clock: Clock,
    directory: DataDir,
    options: Options,
    queue: Mutex<Queue>,
    is_storage_low: AtomicBool,
}

#[derive(Default)]
struct Queue {
    entries: Vec<Entry>,
    is_scheduled: bool,
}

pub(crate) enum Entry {
    Hold {
        attempt: Arc<Attempt>,
        answer: oneshot::Sender<Result<Hold>>,
    },
    Resolve {
        attempt: Arc<Attempt>,
        outcome: Outcome,
    },
    /// Answered once all before it is on disk.
    Flush(oneshot::Sender<()>),
}

impl Ledger {
    pub fn new(db: Db, directory: DataDir, clock: Clock, options: Options) -> Self {
        let ledger = Self(Arc::new(Inner {
            db,
            clock,
            directory,
            options,
            queue: Mutex::default(),
            is_storage_low: AtomicBool::new(false),
        }));
        ledger.look_at_storage();
        ledger
    }

    /// Reserves what `attempt` can cost at most, on every budget it belongs to. When this returns, the hold is on
    /// disk. An error says which limit refused, and nothing was reserved.
    pub async fn hold(&self, attempt: Attempt) -> Result<Hold> {
        if self.0.is_storage_low.load(Ordering::Relaxed) {
            return Err(Error::unavailable(
                "storage_low",
                "The server's disk is nearly full. Nothing was sent.",
            ));
        }
        let (answer, receiver) = oneshot::channel();
        let entry = Entry::Hold { attempt: Arc::new(attempt), answer };
        if !self.submit(entry, WAITING_MAX) {
            return Err(Error::unavailable("overloaded", "The server has too much to do. Please try again."));
        }
        // If the caller goes away while it waits, the hold is dropped with the channel, and so voided.
        receiver
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("shutting_down", "The server is shutting down.")))
    }

    pub(crate) fn resolve(&self, attempt: Arc<Attempt>, outcome: Outcome) {
        self.submit(Entry::Resolve { attempt, outcome }, usize::MAX);
    }

    /// Returns once everything submitted before is on disk.
    pub async fn flush(&self) {
        if self.is_idle() {
            return;
        }
        let (answer, receiver) = oneshot::channel();
        self.submit(Entry::Flush(answer), usize::MAX);
        let _ = receiver.await;
    }

    fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.entries.is_empty() && !queue.is_scheduled
    }

    /// Looks at the free space and tries again what could not be written. Never returns; drop it to stop.
    pub async fn keep_house(&self) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            self.look_at_storage();
            let mut queue = self.queue();
            let is_stuck = !queue.is_scheduled && !queue.entries.is_empty();
            queue.is_scheduled |= is_stuck;
            drop(queue);
            if is_stuck {
                self.schedule();
            }
        }
    }

    fn look_at_storage(&self) {
        match self.0.directory.free_bytes() {
            Ok(free) => {
                let is_low = free < self.0.options.free_bytes_min;
                if self.0.is_storage_low.swap(is_low, Ordering::Relaxed) != is_low {
                    tracing::warn!(free_bytes = free, is_low, "free space of the data directory");
                }
            }
            Err(error) => tracing::error!(%error, "the free space of the data directory is not known"),
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, entry: Entry, waiting_max: usize) -> bool {
        let mut queue = self.queue();
        if queue.entries.len() >= waiting_max {
            return false;
        }
        queue.entries.push(entry);
        if !std::mem::replace(&mut queue.is_scheduled, true) {
            drop(queue);
            self.schedule();
        }
        true
    }

    /// Puts a batch on its way. It takes what is in the queue when its turn comes.
    fn schedule(&self) {
        let underway = Underway { ledger: self.clone(), taken: Arc::default(), is_finished: false };
        let (taken, ledger) = (Arc::clone(&underway.taken), self.clone());
        let scheduled = self.0.db.write_later(
            move |tx| {
                Box::pin(async move {
                    let entries = Arc::new(ledger.take());
                    *taken.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&entries);
                    batch::apply(tx, &entries, ledger.0.clock.now()).await
                })
            },
            move |result| underway.finish(result),
        );
        if scheduled.is_err() {
            // The database is closed. Whoever waits is told so by the end of its channel; what was on its way is on
            // disk as held, and the next start settles it.
            let mut queue = self.queue();
            queue.is_scheduled = false;
            queue.entries.retain(|entry| matches!(entry, Entry::Resolve { .. }));
        }
    }

    fn take(&self) -> Vec<Entry> {
        let mut queue = self.queue();
        let count = queue.entries.len().min(BATCH_MAX);
        queue.entries.drain(..count).collect()
    }

    fn finish(&self, entries: Vec<Entry>, result: Result<Vec<Decision>>) {
        match result {
            Ok(decisions) => {
                for (entry, decision) in entries.into_iter().zip(decisions) {
                    self.answer(entry, decision);
                }
                let mut queue = self.queue();
                queue.is_scheduled = !queue.entries.is_empty();
                let is_more = queue.is_scheduled;
                drop(queue);
                if is_more {
                    self.schedule();
                }
            }
            Err(error) => self.put_back(entries, &error),
        }
    }

    fn answer(&self, entry: Entry, decision: Decision) {
        match (entry, decision) {
            (Entry::Hold { attempt, answer }, Decision::Granted { remaining }) => {
                let _ = answer.send(Ok(Hold::new(self.clone(), attempt, remaining)));
            }
            (Entry::Hold { answer, .. }, Decision::Refused(error)) => {
                let _ = answer.send(Err(error));
            }
            (Entry::Flush(answer), _) => {
                let _ = answer.send(());
            }
            (Entry::Resolve { .. } | Entry::Hold { .. }, _) => {}
        }
    }

    /// A batch that could not be written: holds are refused, ends are kept until they can be written.
    fn put_back(&self, entries: Vec<Entry>, error: &Error) {
        let mut queue = self.queue();
        let waiting = std::mem::take(&mut queue.entries);
        tracing::error!(%error, entries = entries.len(), waiting = waiting.len(), "a ledger batch could not be written");
        for entry in entries.into_iter().chain(waiting) {
            match entry {
                Entry::Hold { answer, .. } => {
                    let message = "The server cannot record the request. Nothing was sent.";
                    let _ = answer.send(Err(Error::unavailable("ledger_unavailable", message)));
                }
                entry => queue.entries.push(entry),
            }
        }
        // keep_house schedules again, so that a full disk is not asked without pause.
        queue.is_scheduled = false;
    }
}

/// A batch between its scheduling and its end. If the writing thread fails in the middle, it ends here.
struct Underway {
    ledger: Ledger,
    taken: Arc<Mutex<Arc<Vec<Entry>>>>,
    is_finished: bool,
}

impl Underway {
    fn finish(mut self, result: Result<Vec<Decision>>) {
        self.is_finished = true;
        self.ledger.finish(self.entries(), result);
    }

    fn entries(&self) -> Vec<Entry> {
        let taken = std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner));
        // The work is over, so this is the last handle; if it were not, the next start would settle what is lost.
        Arc::try_unwrap(taken).unwrap_or_default()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if !self.is_finished {
            self.ledger.put_back(self.entries(), &Error::internal("the work on a ledger batch was lost"));
        }
    }
}
