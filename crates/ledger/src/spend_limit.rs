//! Spend limits and their budgets.
//!
//! A limit is an amount for a scope, per calendar month in UTC. Its budget in a period is the sum over the scope's
//! attempts admitted in that period, so a new limit counts what was already spent.

use tollgate_core::time::Period;
use tollgate_core::{Clock, Money, ProjectId, Result, SpendLimitId, Timestamp};
use tollgate_store::{FromRow, Row, Tx, params};

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Project(ProjectId),
}

impl Scope {
    fn columns(self) -> (&'static str, String) {
        match self {
            Self::Project(id) => ("project", id.to_string()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct SpendLimit {
    pub id: SpendLimitId,
    pub amount: Money,
}

impl FromRow for SpendLimit {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self { id: row.at(0)?, amount: row.at(1)? })
    }
}

/// A limit with its sums over one period.
#[derive(Clone, Copy, Debug)]
pub struct OpenBudget {
    pub limit: SpendLimit,
    pub period: Period,
    pub settled: Money,
    pub held: Money,
    /// Since when it refuses because the money is spent.
    pub refused_at: Option<Timestamp>,
}

impl OpenBudget {
    pub fn remaining(&self) -> Money {
        (self.limit.amount - self.settled - self.held).max(Money::ZERO)
    }

    /// OpenAI's `enforcement.status`: whether requests are refused for it.
    pub fn is_enforcing(&self) -> bool {
        self.refused_at.is_some() || self.settled >= self.limit.amount
    }
}

/// The limit of a scope.
pub async fn read(tx: &mut Tx, scope: Scope) -> Result<Option<SpendLimit>> {
    let (kind, id) = scope.columns();
    tx.optional("SELECT id, amount FROM spend_limit WHERE scope = $1 AND scope_id = $2", &params![kind, id])
        .await
}

/// The budget of a limit in a period, if one was opened.
pub(crate) async fn budget(tx: &mut Tx, limit: &SpendLimit, period: Period) -> Result<Option<OpenBudget>> {
    let row: Option<Row> = tx
        .optional(
            "SELECT settled, held, refused_at FROM budget WHERE spend_limit_id = $1 AND period_start = $2",
            &params![limit.id, period.start],
        )
        .await?;
    row.map(|row| {
        Ok(OpenBudget {
            limit: *limit,
            period,
            settled: row.at(0)?,
            held: row.at(1)?,
            refused_at: row.at(2)?,
        })
    })
    .transpose()
}

/// Opens the budget of a limit in a period, with what its scope has already spent and holds in it.
pub(crate) async fn open(tx: &mut Tx, limit: &SpendLimit, period: Period) -> Result<OpenBudget> {
    let (settled, held) = sums(tx, limit.id, period).await?;
    tx.execute(
        "INSERT INTO budget (spend_limit_id, period_start, settled, held, refused_at) VALUES ($1, $2, $3, $4, NULL)",
        &params![limit.id, period.start, settled, held],
    )
    .await?;
    Ok(OpenBudget { limit: *limit, period, settled, held, refused_at: None })
}

/// What the scope of a limit has settled and holds in a period, from the rollups and the open attempts.
async fn sums(tx: &mut Tx, limit: SpendLimitId, period: Period) -> Result<(Money, Money)> {
    let row: Row = tx
        .one(
            "SELECT
                (SELECT CAST(COALESCE(SUM(r.cost), 0) AS BIGINT) FROM usage_rollup r
                 WHERE r.width = 86400 AND r.organization_id = p.organization_id AND r.project_id = p.id
                    AND r.bucket_start >= $2 AND r.bucket_start < $3) AS settled,
                (SELECT CAST(COALESCE(SUM(a.bound), 0) AS BIGINT) FROM attempt a
                 WHERE a.project_id = p.id AND a.state = 'held'
                    AND a.created_at >= $2 AND a.created_at < $3) AS held
             FROM spend_limit l JOIN project p ON p.id = l.scope_id
             WHERE l.id = $1",
            &params![limit, period.start, period.end],
        )
        .await?;
    Ok((row.get("settled")?, row.get("held")?))
}

/// The limit of a scope with its budget now; `None` without a limit.
pub async fn current(tx: &mut Tx, scope: Scope, now: Timestamp) -> Result<Option<OpenBudget>> {
    let Some(limit) = read(tx, scope).await? else { return Ok(None) };
    let period = Period::month_of(now);
    let opened = budget(tx, &limit, period).await?;
    let nothing = OpenBudget { limit, period, settled: Money::ZERO, held: Money::ZERO, refused_at: None };
    // No budget yet in this period means that nothing was admitted in it.
    Ok(Some(opened.unwrap_or(nothing)))
}

/// Sets or replaces the limit of a scope. In force for the next request.
pub async fn set(tx: &mut Tx, scope: Scope, amount: Money, clock: &Clock) -> Result<OpenBudget> {
    let (kind, id) = scope.columns();
    let now = clock.now();
    let new_id: SpendLimitId = clock.next_id();
    tx.execute(
        "INSERT INTO spend_limit (id, scope, scope_id, amount, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)
         ON CONFLICT (scope, scope_id) DO UPDATE SET amount = excluded.amount, updated_at = excluded.updated_at",
        &params![new_id, kind, id, amount, now],
    )
    .await?;
    let limit: SpendLimit = tx
        .one("SELECT id, amount FROM spend_limit WHERE scope = $1 AND scope_id = $2", &params![kind, id])
        .await?;
    let period = Period::month_of(now);
    let Some(mut opened) = budget(tx, &limit, period).await? else { return open(tx, &limit, period).await };
    // Whether the new amount refuses anything is yet to be seen.
    tx.execute(
        "UPDATE budget SET refused_at = NULL WHERE spend_limit_id = $1 AND period_start = $2",
        &params![limit.id, period.start],
    )
    .await?;
    opened.refused_at = None;
    Ok(opened)
}

/// Removes the limit of a scope; says whether there was one. Holds in flight end as they would have.
pub async fn remove(tx: &mut Tx, scope: Scope) -> Result<bool> {
    let Some(limit) = read(tx, scope).await? else { return Ok(false) };
    tx.execute("DELETE FROM budget WHERE spend_limit_id = $1", &params![limit.id]).await?;
    tx.execute("DELETE FROM spend_limit WHERE id = $1", &params![limit.id]).await?;
    Ok(true)
}
