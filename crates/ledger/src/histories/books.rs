//! The books, kept in memory, and what their attempts say.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tollgate_core::budget::{Budget, Limit, Limits, Mode, Place, Scope};
use tollgate_core::{AttemptId, Money, Period, Result, Timestamp};

use crate::attempt::{Attempt, Excess, Outcome, State as AttemptState};
use crate::hold::Held;
use crate::rollup::{HOUR, Rollups};
use crate::shelf::Shelf;

use super::Broken;

/// One attempt on the simulated books.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) held: Arc<Held>,
    pub(super) state: AttemptState,
    pub(super) cost: Money,
    pub(super) adjusted: Money,
    /// Whether a limit enforced when it ended: what was cut is then charged at its bound, and otherwise by sight.
    pub(super) is_limited_at_end: bool,
}

impl Row {
    pub(super) fn bound(&self) -> Option<Money> {
        self.held.granted.request.bound().map(tollgate_core::price::Bound::total)
    }
}

/// The books as they are stored.
#[derive(Clone, Default)]
pub(super) struct Books {
    pub(super) attempts: BTreeMap<AttemptId, Row>,
    pub(super) budgets: HashMap<Place, Budget>,
    pub(super) limits: Limits,
    /// What the rollups say was spent, by key and hour.
    pub(super) rollups: HashMap<(i64, Timestamp), Money>,
    broken: Option<Broken>,
}

impl Books {
    pub(super) fn of(broken: Broken) -> Self {
        Self { broken: Some(broken), ..Self::default() }
    }

    /// What a budget has to say, by the attempts themselves.
    pub(super) fn sums(&self, scope: Scope, period: Period) -> (Money, Money, u64) {
        let (mut settled, mut held, mut unbounded) = (Money::ZERO, Money::ZERO, 0);
        for row in self.attempts.values() {
            let attempt = &row.held.attempt;
            if !period.contains(attempt.created_at()) || !attempt.payer.scopes().any(|other| other == scope) {
                continue;
            }
            match (row.state, row.bound()) {
                (AttemptState::Held, Some(bound)) => held += bound,
                (AttemptState::Held, None) => unbounded += 1,
                (AttemptState::Settled, _) => settled += row.cost + row.adjusted,
                (AttemptState::Voided, _) => {}
            }
        }
        (settled, held, unbounded)
    }

    pub(super) fn opened(&self, limit: &Arc<Limit>, period: Period) -> Budget {
        let mut budget = Budget::new(Arc::clone(limit), period);
        if limit.since > period.start && self.broken != Some(Broken::LimitBeginsAtZero) {
            (budget.settled, budget.held, budget.unbounded) = self.sums(limit.scope, period);
        }
        budget
    }
}

impl Books {
    fn end_one(&mut self, attempt: &Attempt, outcome: &Outcome) -> bool {
        let Some(row) = self.attempts.get_mut(&attempt.id) else { return false };
        if row.state != AttemptState::Held {
            return self.broken == Some(Broken::NotIdempotent);
        }
        (row.state, row.cost) = (outcome.state(), outcome.cost().total());
        let limits = self.limits.path(&attempt.payer);
        row.is_limited_at_end = limits.iter().any(|limit| limit.mode == Mode::Enforce);
        true
    }
}

impl Shelf for Books {
    async fn end(&mut self, ends: &[(&Attempt, Outcome)], _: Timestamp, _: bool) -> Result<Vec<bool>> {
        Ok(ends.iter().map(|(attempt, outcome)| self.end_one(attempt, outcome)).collect())
    }

    async fn insert(&mut self, holds: &[Arc<Held>]) -> Result<()> {
        for held in holds {
            let (id, state) = (held.attempt.id, AttemptState::Held);
            let held = Arc::clone(held);
            let row = Row { held, state, cost: Money::ZERO, adjusted: Money::ZERO, is_limited_at_end: false };
            self.attempts.insert(id, row);
        }
        Ok(())
    }

    async fn budget(&mut self, limit: &Arc<Limit>, period: Period) -> Result<Option<Budget>> {
        let budget = self.budgets.get(&(limit.id, period.start)).cloned();
        Ok(budget.map(|budget| Budget { limit: Arc::clone(limit), ..budget }))
    }

    async fn open(&mut self, limit: &Arc<Limit>, period: Period) -> Result<Budget> {
        let budget = self.opened(limit, period);
        self.budgets.insert(budget.place(), budget.clone());
        Ok(budget)
    }

    async fn store(&mut self, budget: &Budget) -> Result<()> {
        self.budgets.insert(budget.place(), budget.clone());
        Ok(())
    }

    async fn add(&mut self, rollups: Rollups) -> Result<()> {
        for (key, at, cost) in rollups.costs(HOUR) {
            *self.rollups.entry((key, at)).or_default() += cost;
        }
        Ok(())
    }

    async fn exceeded(&mut self, _: &str, _: &Excess, _: Timestamp) -> Result<()> {
        Ok(())
    }
}

/// Everything here answers at once.
pub(super) fn now<T>(future: impl Future<Output = Result<T>>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result.unwrap(),
        Poll::Pending => panic!("nothing here waits"),
    }
}
