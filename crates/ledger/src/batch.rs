//! One batch: brings ends to the books, lets the machine decide on holds, and writes each touched budget and rollup once
//! and each attempt once.

use foldhash::{HashMap, HashMapExt};
use std::sync::Arc;

use tollgate_core::budget::{Books, Limit, Limits, Payer, Refusal, Turn, Verdict, Wish};
use tollgate_core::{Error, Money, Period, ProjectId, Result, SpendLimitId, Timestamp};

use crate::attempt::{Attempt, Ending, Excess, Outcome, State, UsageSource};
use crate::hold::Held;
use crate::rollup::{Line, Rollups};
use crate::shelf::Shelf;
use crate::sums::Sums;

/// The end of a hold.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) held: Arc<Held>,
    pub(crate) ending: Ending,
}

/// A wish for a hold.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) attempt: Arc<Attempt>,
    /// Whether it may wait for what requests in flight give back.
    pub(crate) may_wait: bool,
}

/// What became of a wish.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    Granted(Arc<Held>),
    /// Behind those of its project who wait for a budget to get money back.
    Waits(Turn),
    Refused(Refused),
}

/// A refusal with the budget that made it.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) limit: Arc<Limit>,
    pub(crate) period: Period,
    pub(crate) settled: Money,
}

/// What a batch did.
#[derive(Debug)]
pub(crate) struct Applied {
    /// On each who asked, in their order.
    pub(crate) decisions: Vec<Decision>,
    /// What each attempt took that was settled.
    pub(crate) settled: Vec<(ProjectId, Arc<str>, Sums)>,
}

impl Applied {
    pub(crate) fn granted(&self) -> Vec<Arc<Held>> {
        let granted = self.decisions.iter().filter_map(|decision| match decision {
            Decision::Granted(held) => Some(Arc::clone(held)),
            Decision::Waits(_) | Decision::Refused(_) => None,
        });
        granted.collect()
    }
}

/// Applies `ends` and decides on `asks`, in this order: what ends give back can be granted at once, and wishes are
/// decided first come, first served. `awaited` is where somebody waits who is not among them.
pub(crate) async fn apply<S: Shelf>(
    shelf: &mut S,
    limits: &Limits,
    awaited: &[Turn],
    ends: &[End],
    asks: &[Ask],
    now: Timestamp,
) -> Result<Applied> {
    let mut batch = Batch::new(shelf, limits, now);
    let settled = batch.end_all(ends).await?;
    for turn in awaited {
        batch.books.await_turn(*turn);
    }
    let mut decisions = Vec::with_capacity(asks.len());
    for ask in asks {
        decisions.push(batch.decide(ask).await?);
    }
    batch.write().await?;
    Ok(Applied { decisions, settled })
}

/// A hold that no process owns any more, and how it ends.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) attempt: Attempt,
    pub(crate) bound: Option<Money>,
    pub(crate) is_clamped: bool,
    pub(crate) outcome: Outcome,
}

/// Ends holds that no process owns any more, as it was decided for each.
pub(crate) async fn recover<S: Shelf>(
    shelf: &mut S,
    limits: &Limits,
    ends: &[Orphan],
    now: Timestamp,
) -> Result<()> {
    let mut batch = Batch::new(shelf, limits, now);
    let outcomes: Vec<_> = ends.iter().map(|orphan| (&orphan.attempt, orphan.outcome.clone())).collect();
    let ended = batch.shelf.end(&outcomes, now, true).await?;
    let ended: Vec<_> = ends.iter().zip(ended).filter_map(|(end, did)| did.then_some(end)).collect();
    let mut rollups = Rollups::default();
    for Orphan { attempt, is_clamped, outcome, .. } in &ended {
        note(&mut rollups, attempt, outcome, *is_clamped);
    }
    batch.shelf.add(rollups).await?;
    for Orphan { attempt, bound, outcome, .. } in ended {
        batch.charge(attempt, *bound, outcome).await?;
    }
    batch.write().await
}

/// Changes what a settled attempt cost, on every budget and rollup that counts it.
pub(crate) async fn adjust<S: Shelf>(
    shelf: &mut S,
    limits: &Limits,
    by: (&Payer, i64),
    line: &Line,
    at: Timestamp,
    sums: &Sums,
) -> Result<()> {
    let mut rollups = Rollups::default();
    rollups.add(by, line, at, sums);
    shelf.add(rollups).await?;
    let mut batch = Batch::new(shelf, limits, at);
    let path = batch.opened(by.0, at).await?;
    let too_much = || Error::bad_request("What was spent would be more than can be counted.");
    batch.books.adjust(&path, sums.adjusted_cost).ok_or_else(too_much)?;
    batch.write().await
}

struct Batch<'b, S> {
    shelf: &'b mut S,
    limits: &'b Limits,
    books: Books,
    /// The last period of each limit: attempts come in the order of time, nearly.
    periods: HashMap<SpendLimitId, Period>,
    granted: Vec<Arc<Held>>,
    now: Timestamp,
}

impl<'b, S: Shelf> Batch<'b, S> {
    fn new(shelf: &'b mut S, limits: &'b Limits, now: Timestamp) -> Self {
        Self { shelf, limits, books: Books::default(), periods: HashMap::new(), granted: Vec::new(), now }
    }

    /// Ends attempts and brings what they cost to the rollups, before any budget is opened: its sums are read from there.
    async fn end_all(&mut self, ends: &[End]) -> Result<Vec<(ProjectId, Arc<str>, Sums)>> {
        let outcomes: Vec<_> =
            ends.iter().map(|end| (end.held.attempt.as_ref(), self.outcome(end))).collect();
        let ended = self.shelf.end(&outcomes, self.now, false).await?;
        let mut rollups = Rollups::default();
        let mut charges = Vec::with_capacity(ends.len());
        let mut settled = Vec::with_capacity(ends.len());
        // What ended before counts once. That happens where nobody knew whether a batch was written.
        for (end, _) in ends.iter().zip(&ended).filter(|(_, did)| !**did) {
            tracing::warn!(attempt = %end.held.attempt.id, "a hold that was to end had ended already, or was never written");
        }
        for ((End { held, .. }, (attempt, outcome)), _) in
            ends.iter().zip(&outcomes).zip(ended).filter(|(_, did)| *did)
        {
            let granted = &held.granted;
            if let Some(sums) = note(&mut rollups, attempt, outcome, granted.is_clamped) {
                settled.push((attempt.payer.project, Arc::clone(&attempt.model), sums));
            }
            if outcome.source() == Some(UsageSource::Upstream)
                && let Some(excess) = Excess::of(&granted.request, outcome.usage())
            {
                tracing::warn!(attempt = %attempt.id, model = %attempt.model, excess = %excess.cost, "an answer exceeded its bound");
                self.shelf.exceeded(&attempt.model, &excess, self.now).await?;
            }
            charges.push((*attempt, granted.bound, outcome));
        }
        self.shelf.add(rollups).await?;
        for (attempt, bound, outcome) in charges {
            self.charge(attempt, bound, outcome).await?;
        }
        Ok(settled)
    }

    fn outcome(&self, End { held, ending }: &End) -> Outcome {
        let Held { attempt, granted } = held.as_ref();
        let is_limited = self.limits.path(&attempt.payer).iter().any(|limit| is_enforced(limit));
        Outcome::of(attempt, &granted.request, ending, is_limited)
    }

    async fn charge(&mut self, attempt: &Attempt, bound: Option<Money>, outcome: &Outcome) -> Result<()> {
        let path = self.opened(&attempt.payer, attempt.created_at()).await?;
        self.books.end(&path, bound, outcome.cost().total());
        Ok(())
    }

    async fn decide(&mut self, ask: &Ask) -> Result<Decision> {
        let Ask { attempt, may_wait } = ask;
        let path = self.path(&attempt.payer, attempt.created_at()).await?;
        let has_limit = path.iter().any(|at| self.books.budget(*at).is_enforced());
        let request = attempt.if_limited.filter(|_| has_limit).unwrap_or(attempt.request);
        let wish = Wish {
            project: attempt.payer.project,
            request,
            is_final: attempt.is_final,
            clamp_to: attempt.clamp_to,
            may_wait: *may_wait,
        };
        Ok(match self.books.decide(&path, &wish, self.now) {
            Verdict::Granted(granted) => {
                let held = Arc::new(Held { attempt: Arc::clone(attempt), granted });
                self.granted.push(Arc::clone(&held));
                Decision::Granted(held)
            }
            Verdict::Waits { on } => {
                Decision::Waits((self.books.budget(path[on]).place(), attempt.payer.project))
            }
            Verdict::Refused(refusal) => {
                let budget = self.books.budget(path[refusal.by]);
                let (limit, period) = (Arc::clone(&budget.limit), budget.period);
                Decision::Refused(Refused { refusal, limit, period, settled: budget.settled })
            }
        })
    }

    /// The budgets that count what a payer's requests of a moment cost, opened where this is the first of their period.
    async fn path(&mut self, payer: &Payer, at: Timestamp) -> Result<Vec<usize>> {
        let mut path = Vec::new();
        for limit in self.limits.path(payer) {
            let period = self.period(&limit, at);
            if let Some(found) = self.find(&limit, period).await? {
                path.push(found);
            } else {
                let opened = self.shelf.open(&limit, period).await?;
                path.push(self.books.add(opened));
            }
        }
        Ok(path)
    }

    /// Those of them that are open. One that is opened later takes its sums from the attempts, this one's among them.
    async fn opened(&mut self, payer: &Payer, at: Timestamp) -> Result<Vec<usize>> {
        let mut path = Vec::new();
        for limit in self.limits.path(payer) {
            let period = self.period(&limit, at);
            path.extend(self.find(&limit, period).await?);
        }
        Ok(path)
    }

    async fn find(&mut self, limit: &Arc<Limit>, period: Period) -> Result<Option<usize>> {
        if let Some(found) = self.books.find((limit.id, period.start)) {
            return Ok(Some(found));
        }
        let read = self.shelf.budget(limit, period).await?;
        Ok(read.map(|budget| self.books.add(budget)))
    }

    fn period(&mut self, limit: &Limit, at: Timestamp) -> Period {
        match self.periods.get(&limit.id) {
            Some(period) if period.contains(at) => *period,
            _ => {
                let period = limit.period(at);
                self.periods.insert(limit.id, period);
                period
            }
        }
    }

    /// No hold counts in a budget that was opened after it in the same batch, so that it is early enough to store them
    /// in the end.
    async fn write(self) -> Result<()> {
        self.shelf.insert(&self.granted).await?;
        for budget in self.books.touched() {
            self.shelf.store(budget).await?;
        }
        Ok(())
    }
}

fn is_enforced(limit: &Limit) -> bool {
    limit.mode == tollgate_core::budget::Mode::Enforce
}

/// Adds what an attempt took, if it was settled.
fn note(rollups: &mut Rollups, attempt: &Attempt, outcome: &Outcome, is_clamped: bool) -> Option<Sums> {
    if outcome.state() != State::Settled {
        return None;
    }
    let sums = Sums::of(outcome.usage(), outcome.cost(), is_clamped);
    let by = (&attempt.payer, attempt.key_number);
    rollups.add(by, &Line::of(attempt, outcome.usage()), attempt.created_at(), &sums);
    Some(sums)
}
