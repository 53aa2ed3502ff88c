//! A batch on its way: from the queue to the writing thread, to the disk, and back to those who asked.

use std::sync::{Arc, Mutex, PoisonError};

use tollgate_core::{Error, Result};
use tollgate_store::{Commit, OUTCOME_UNKNOWN};

use crate::attempt::Ending;
use crate::batch::{self, Applied, Decision, End};
use crate::hold::{Held, Hold};
use crate::ledger::Ledger;
use crate::pace;
use crate::queue::{Asking, Refused, Taken, Waiting};
use crate::refusal;

/// A batch between its scheduling and its end. If the writing thread fails in the middle, it ends here.
struct Underway {
    ledger: Ledger,
    taken: Arc<Mutex<Option<Taken>>>,
    /// What the batch granted, before it was committed.
    granted: Arc<Mutex<Vec<Arc<Held>>>>,
    is_finished: bool,
}

/// What everybody who asked is told, when none of the queue's locks is held: a hold that nobody takes any more is dropped,
/// and goes back there.
#[derive(Default)]
struct Answers {
    granted: Vec<(Asking, Arc<Held>)>,
    refused: Vec<(Asking, Refused)>,
}

impl Ledger {
    /// Puts a batch on its way. It takes what is in the queue when its turn comes.
    pub(crate) fn schedule(&self) {
        let underway = Underway {
            ledger: self.clone(),
            taken: Arc::default(),
            granted: Arc::default(),
            is_finished: false,
        };
        let (slot, granted, ledger) =
            (Arc::clone(&underway.taken), Arc::clone(&underway.granted), self.clone());
        let scheduled = self.0.db.write_later(
            move |tx| {
                Box::pin(async move {
                    ledger.linger();
                    let taken = ledger.queue().take();
                    let (ends, asks, awaited) = (taken.ends.clone(), taken.asks(), taken.awaited.clone());
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
                    let limits = ledger.limits(tx).await?;
                    let applied =
                        batch::apply(tx, &limits, &awaited, &ends, &asks, ledger.0.clock.now()).await?;
                    *granted.lock().unwrap_or_else(PoisonError::into_inner) = applied.granted();
                    Ok(applied)
                })
            },
            move |result, commit| underway.finish(result, commit),
        );
        if scheduled.is_err() {
            // The database is closed. Whoever waits is told so by the end of its channel; what was on its way is on
            // disk as held, and the next start settles it.
            let dismissed = {
                let mut queue = self.queue();
                queue.is_scheduled = false;
                queue.dismiss()
            };
            drop(dismissed);
        }
    }

    /// Lets more join the batch that is about to begin, as long as more come. On the writing thread, which has nothing
    /// else to do.
    fn linger(&self) {
        let mut before = 0;
        loop {
            let queue = self.queue();
            let (linger, entries) = (queue.pace.linger(), queue.len());
            drop(queue);
            if linger.is_zero() || entries == before {
                return;
            }
            before = entries;
            std::thread::sleep(linger.min(pace::STEP));
        }
    }

    fn committed(&self, taken: Taken, decisions: Vec<Decision>, commit: Commit) {
        // Between two looks of keep_house a busy server writes much.
        self.look_at_storage();
        let (mut now, mut strict, mut waiting) = (Answers::default(), Answers::default(), Vec::new());
        for (asking, decision) in taken.asking.into_iter().zip(decisions) {
            match decision {
                Decision::Granted(held) if self.is_strict(held.granted.remaining.is_some()) => {
                    strict.granted.push((asking, held));
                }
                Decision::Granted(held) => now.granted.push((asking, held)),
                Decision::Waits(on) => waiting.push(Waiting { asking, on }),
                Decision::Refused(refused) => {
                    let error = refusal::error(&asking.attempt, &refused, self.retry_after());
                    let is_misfit = error.status() == 429;
                    let refused = if is_misfit { Refused::Misfit(error) } else { Refused::Error(error) };
                    now.refused.push((asking, refused));
                }
            }
        }
        let mut queue = self.queue();
        if !waiting.is_empty() {
            self.0.waits.notify_one();
        }
        for waiting in waiting {
            queue.wait(waiting);
        }
        queue.is_scheduled = false;
        queue.syncing += 1;
        self.schedule_if_due(queue);
        now.send(self, commit);
        let (ledger, flushes) = (self.clone(), taken.flushes);
        self.0.db.after_sync(move || {
            strict.send(&ledger, commit);
            for answer in flushes {
                let _ = answer.send(());
            }
            let mut queue = ledger.queue();
            queue.syncing -= 1;
            ledger.schedule_if_due(queue);
        });
    }

    /// A batch that could not be written: holds are refused, ends are kept until they can be written. If nobody knows whether
    /// it was written, the holds that it granted are voided; that does nothing to those that were not.
    fn failed(&self, mut taken: Taken, granted: Vec<Arc<Held>>, error: &Error) {
        tracing::error!(%error, ends = taken.ends.len(), holds = taken.asking.len(), "a ledger batch could not be written");
        if error.code == Some("storage_unavailable") {
            self.out_of_storage();
        }
        if error.code == Some(OUTCOME_UNKNOWN) {
            taken.ends.extend(granted.into_iter().map(|held| End { held, ending: Ending::Voided }));
        }
        let mut queue = self.queue();
        queue.put_back(taken.ends, taken.flushes);
        let mut dismissed = queue.dismiss();
        // keep_house schedules again, so that a full disk is not asked without pause.
        queue.is_scheduled = false;
        drop(queue);
        dismissed.extend(taken.asking);
        for asking in dismissed {
            let message = "The server cannot record the request. Nothing was sent.";
            let _ =
                asking.answer.send(Err(Refused::Error(Error::unavailable("ledger_unavailable", message))));
        }
    }
}

impl Answers {
    fn send(self, ledger: &Ledger, commit: Commit) {
        for (asking, held) in self.granted {
            let _ = asking.answer.send(Ok(Hold::new(ledger.clone(), held, commit)));
        }
        for (asking, refused) in self.refused {
            let _ = asking.answer.send(Err(refused));
        }
    }
}

impl Underway {
    fn finish(mut self, result: Result<Applied>, commit: Commit) {
        self.is_finished = true;
        let taken = self.taken();
        match result {
            Ok(Applied { decisions, settled }) => {
                self.ledger.0.totals.add(&settled);
                self.ledger.committed(taken, decisions, commit);
            }
            Err(error) => self.ledger.failed(taken, self.granted(), &error),
        }
    }

    fn granted(&self) -> Vec<Arc<Held>> {
        std::mem::take(&mut *self.granted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn taken(&self) -> Taken {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if !self.is_finished {
            let error = Error::internal("the work on a ledger batch was lost");
            self.ledger.failed(self.taken(), Vec::new(), &error);
        }
    }
}
