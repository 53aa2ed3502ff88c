//! The machine that grants holds: pure, and the only thing that does.
//!
//! A spend limit is an amount for a scope and an interval. Its budget over one period is what the scope's attempts that
//! were admitted in the period have cost and may yet cost. For every budget that enforces, at every grant: settled + held
//! <= limit. A hold is granted on all budgets of its path or on none, and is resolved once: settled at what it really
//! cost, or voided. An actual above its bound is charged in full.

mod books;
mod limits;

use std::sync::Arc;

use crate::id::{KeyId, OrganizationId, ProjectId, SpendLimitId, UserId};
use crate::money::Money;
use crate::period::{Interval, Period, Zone};
use crate::time::Timestamp;

pub use books::{Books, Granted, Place, Turn, Verdict, Wish};
pub use limits::Limits;

/// What a limit counts. The order is that of width: a refusal names the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Organization(OrganizationId),
    Project(ProjectId),
    /// A person in an organization, with all keys they own there.
    User(OrganizationId, UserId),
    Key(KeyId),
}

/// Whose money a request spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Payer {
    pub organization: OrganizationId,
    pub project: ProjectId,
    /// `None` for the key of a service account.
    pub user: Option<UserId>,
    pub key: KeyId,
}

impl Payer {
    /// The scopes it belongs to, widest first.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> {
        let user = self.user.map(|user| Scope::User(self.organization, user));
        [
            Some(Scope::Organization(self.organization)),
            Some(Scope::Project(self.project)),
            user,
            Some(Scope::Key(self.key)),
        ]
        .into_iter()
        .flatten()
    }
}

/// Whether a limit refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// It counts what it would have refused, and refuses nothing.
    Observe,
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Enforce, Self::Observe].into_iter().find(|mode| mode.as_str() == word)
    }
}

/// A spend limit. There is at most one for a scope and an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub id: SpendLimitId,
    pub scope: Scope,
    pub interval: Interval,
    pub zone: Zone,
    pub amount: Money,
    pub mode: Mode,
    /// Since when it is what it is. In a period that began later every attempt was counted as it came; in one that
    /// began before, the sums have to be taken from the attempts.
    pub since: Timestamp,
}

impl Limit {
    pub fn period(&self, at: Timestamp) -> Period {
        Period::of(self.interval, &self.zone, at)
    }
}

/// One limit over one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub limit: Arc<Limit>,
    pub period: Period,
    pub settled: Money,
    pub held: Money,
    /// Requests in flight whose cost has no bound: admitted before the limit was, or by one that only observes.
    pub unbounded: u64,
    /// Since when it refuses because the money is spent.
    pub refused_at: Option<Timestamp>,
    /// Requests that it would have refused had it not only observed.
    pub observed: u64,
}

impl Budget {
    /// A budget of which nothing was spent yet.
    pub fn new(limit: Arc<Limit>, period: Period) -> Self {
        let (settled, held) = (Money::ZERO, Money::ZERO);
        Self { limit, period, settled, held, unbounded: 0, refused_at: None, observed: 0 }
    }

    pub fn place(&self) -> Place {
        (self.limit.id, self.period.start)
    }

    /// What is neither spent nor reserved, at least nothing.
    pub fn remaining(&self) -> Money {
        (self.limit.amount - self.settled - self.held).max(Money::ZERO)
    }

    pub fn is_enforced(&self) -> bool {
        self.limit.mode == Mode::Enforce
    }

    /// OpenAI's `enforcement.status`: whether requests are refused for it.
    pub fn is_enforcing(&self) -> bool {
        self.is_enforced() && (self.refused_at.is_some() || self.settled >= self.limit.amount)
    }

    /// Why a request with this bound does not fit, whatever the mode.
    fn misfit(&self, bound: Option<Money>) -> Option<Reason> {
        let Some(bound) = bound else { return Some(Reason::Unbounded) };
        let sum = |parts: [Money; 3]| parts.iter().map(|part| i128::from(part.nanos())).sum::<i128>();
        let limit = i128::from(self.limit.amount.nanos());
        if sum([self.settled, bound, Money::ZERO]) > limit {
            Some(Reason::Exhausted)
        } else if self.unbounded > 0 || sum([self.settled, self.held, bound]) > limit {
            // What has no bound may cost all that is left.
            Some(Reason::Held)
        } else {
            None
        }
    }
}

/// Why a hold was refused, and by which budget of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Position in the path, whose widest budget comes first.
    pub by: usize,
    pub reason: Reason,
}

/// The order is that of gravity: what waiting cannot cure goes before what it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The request has no bound: its model has no price, or its size no limit.
    Unbounded,
    /// It would not fit even if nothing were in flight.
    Exhausted,
    /// It would fit if what is in flight cost nothing.
    Held,
}
