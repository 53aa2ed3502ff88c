//! What stands in line for the next batch.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tollgate_core::budget::{Payer, Turn};
use tollgate_core::{Error, OrganizationId, ProjectId, Result};

use crate::attempt::Attempt;
use crate::batch::{Ask, End};
use crate::hold::Hold;
use crate::pace::Pace;

/// Entries taken by one batch. At full load a commit takes some milliseconds; more would only make them wait longer.
const BATCH_MAX: usize = 512;
/// So many entries make it worth to write a batch while the disk is still busy with the last.
const PIPELINE_FROM: usize = 256;
/// Requests that may wait for money at a time: in all, and of one organization or project, so that none takes all places.
const WAITING_MAX: usize = 4_000;
const WAITING_MAX_OF_ORGANIZATION: usize = 2_000;
const WAITING_MAX_OF_PROJECT: usize = 1_000;

/// Why there is no hold.
#[derive(Debug)]
pub enum Refused {
    /// It does not fit; a smaller bound might.
    Misfit(Error),
    /// No bound would change anything.
    Error(Error),
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Misfit(error) | Refused::Error(error) => error,
        }
    }
}

/// Somebody who asks for a hold.
pub(crate) struct Asking {
    pub(crate) attempt: Arc<Attempt>,
    /// Until when it may wait; `None` if it may not.
    pub(crate) patience: Option<Instant>,
    /// Whether it will be answered from the disk, as far as can be told beforehand.
    pub(crate) is_strict: bool,
    pub(crate) answer: oneshot::Sender<Result<Hold, Refused>>,
}

#[expect(clippy::large_enum_variant, reason = "half of them are ends, and none waits for long")]
pub(crate) enum Entry {
    Ask(Asking),
    End(End),
    /// Answered once all before it is on disk.
    Flush(oneshot::Sender<()>),
}

/// Somebody who waits for a budget to get money back.
pub(crate) struct Waiting {
    pub(crate) asking: Asking,
    pub(crate) on: Turn,
}

#[derive(Default)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// Since when the first of them stands here, or one that stood before it.
    pub(crate) oldest: Option<Instant>,
    /// In the order they came.
    waiting: VecDeque<Waiting>,
    /// Whether those who wait are to be looked at though nothing was given back: a limit was changed, or somebody's
    /// patience has ended.
    pub(crate) is_reconsidering: bool,
    /// A batch is on its way to being written.
    pub(crate) is_scheduled: bool,
    /// Batches that are written and on their way to the disk.
    pub(crate) syncing: usize,
    /// Entries whose answer does not wait for the disk.
    hasty: usize,
    pub(crate) pace: Pace,
}

/// What one batch works on.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) ends: Vec<End>,
    pub(crate) asking: Vec<Asking>,
    pub(crate) flushes: Vec<oneshot::Sender<()>>,
    /// Where somebody waits who is not among those who ask.
    pub(crate) awaited: Vec<Turn>,
    /// The places of those who wait.
    places: Places,
}

impl Taken {
    pub(crate) fn asks(&self) -> Vec<Ask> {
        let mut places = self.places.clone();
        let asks = self.asking.iter().map(|asking| Ask {
            attempt: Arc::clone(&asking.attempt),
            may_wait: asking.patience.is_some() && places.take(&asking.attempt.payer),
        });
        asks.collect()
    }
}

/// Places to wait in that are taken.
#[derive(Clone, Default)]
struct Places {
    all: usize,
    organizations: HashMap<OrganizationId, usize>,
    projects: HashMap<ProjectId, usize>,
}

impl Places {
    /// Takes one, if there is one.
    fn take(&mut self, payer: &Payer) -> bool {
        let organization = self.organizations.entry(payer.organization).or_default();
        let project = self.projects.entry(payer.project).or_default();
        let is_free = self.all < WAITING_MAX
            && *organization < WAITING_MAX_OF_ORGANIZATION
            && *project < WAITING_MAX_OF_PROJECT;
        if is_free {
            self.all += 1;
            *organization += 1;
            *project += 1;
        }
        is_free
    }
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.hasty += usize::from(is_hasty(&entry));
        self.oldest.get_or_insert_with(Instant::now);
        self.entries.push_back(entry);
    }

    /// Whether a batch should be written now. What is answered from the disk lets the disk finish with the last batch
    /// first, for it shares the next sync either way.
    pub(crate) fn is_due(&self) -> bool {
        if self.is_scheduled {
            return false;
        }
        let has_work = !self.entries.is_empty() || (self.is_reconsidering && !self.waiting.is_empty());
        has_work && (self.syncing == 0 || self.hasty > 0 || self.entries.len() >= PIPELINE_FROM)
    }

    /// Takes what the next batch works on: those who wait, if something may have changed for them, before those who came
    /// later.
    pub(crate) fn take(&mut self) -> Taken {
        let mut taken = Taken::default();
        let count = self.entries.len().min(BATCH_MAX);
        self.pace.took(count);
        let mut new = Vec::new();
        for entry in self.entries.drain(..count) {
            self.hasty -= usize::from(is_hasty(&entry));
            match entry {
                Entry::Ask(asking) => new.push(asking),
                Entry::End(end) => taken.ends.push(end),
                Entry::Flush(answer) => taken.flushes.push(answer),
            }
        }
        self.oldest = (!self.entries.is_empty()).then(Instant::now);
        self.waiting.retain(|waiting| !waiting.asking.answer.is_closed());
        if !taken.ends.is_empty() || std::mem::take(&mut self.is_reconsidering) {
            taken.asking.extend(self.waiting.drain(..).map(|waiting| waiting.asking));
        } else {
            for waiting in &self.waiting {
                taken.awaited.push(waiting.on);
                taken.places.take(&waiting.asking.attempt.payer);
            }
        }
        taken.asking.extend(new);
        taken
    }

    pub(crate) fn wait(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    pub(crate) fn is_anybody_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When the first patience ends.
    pub(crate) fn next_impatient(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|waiting| waiting.asking.patience).min()
    }

    /// Ends the patience of those who have waited as long as they may: they are asked once more, and then refused.
    pub(crate) fn end_patience(&mut self, now: Instant) {
        for waiting in &mut self.waiting {
            if waiting.asking.patience.is_some_and(|until| until <= now) {
                waiting.asking.patience = None;
                self.is_reconsidering = true;
            }
        }
    }

    /// Puts ends back that could not be written, before all others, and those who wait for them after them.
    pub(crate) fn put_back(&mut self, ends: Vec<End>, flushes: Vec<oneshot::Sender<()>>) {
        let entries = ends.into_iter().map(Entry::End).chain(flushes.into_iter().map(Entry::Flush));
        let later = std::mem::take(&mut self.entries);
        self.entries = entries.chain(later).collect();
    }

    /// Takes everybody out who waits for an answer.
    pub(crate) fn dismiss(&mut self) -> Vec<Asking> {
        let mut dismissed: Vec<Asking> = self.waiting.drain(..).map(|waiting| waiting.asking).collect();
        for entry in std::mem::take(&mut self.entries) {
            match entry {
                Entry::Ask(asking) => dismissed.push(asking),
                entry => self.entries.push_back(entry),
            }
        }
        self.hasty = 0;
        dismissed
    }
}

fn is_hasty(entry: &Entry) -> bool {
    matches!(entry, Entry::Ask(asking) if !asking.is_strict)
}
