//! Spend limits as they are stored, and the sums that their budgets begin with.
//!
//! A limit is an amount for a scope and an interval. Its budget in a period is the sum over the scope's attempts admitted
//! in that period, so a new limit, or a new time zone, counts what was already spent.

use std::sync::Arc;

use tollgate_core::budget::{Budget, Limit, Limits, Mode, Payer, Scope};
use tollgate_core::{
    AttemptId, Clock, Error, Interval, KeyId, Money, OrganizationId, Period, ProjectId, Result, SpendLimitId,
    Timestamp, UserId, Zone,
};
use tollgate_store::{Entity, FromRow, Row, Sql, Tx, params};

use crate::rollup::{COST, DAY, HOUR};

/// What a scope is called in the database, and its id.
pub fn columns(scope: Scope) -> (&'static str, String) {
    match scope {
        Scope::Organization(id) => ("organization", id.to_string()),
        Scope::Project(id) => ("project", id.to_string()),
        Scope::User(_, id) => ("user", id.to_string()),
        Scope::Key(id) => ("api_key", id.to_string()),
    }
}

fn read_scope(kind: &str, id: &str, organization: OrganizationId) -> Option<Scope> {
    match kind {
        "organization" => OrganizationId::parse(id).map(Scope::Organization),
        "project" => ProjectId::parse(id).map(Scope::Project),
        "user" => UserId::parse(id).map(|user| Scope::User(organization, user)),
        "api_key" => KeyId::parse(id).map(Scope::Key),
        _ => None,
    }
}

struct Stored(Limit);

impl FromRow for Stored {
    fn from_row(row: &Row) -> Result<Self> {
        let broken = || Error::internal("a spend limit of a kind that this version does not know");
        let text = |column: &str| row.get::<String>(column);
        Ok(Self(Limit {
            id: row.get("id")?,
            scope: read_scope(&text("scope")?, &text("scope_id")?, row.get("organization_id")?)
                .ok_or_else(broken)?,
            interval: Interval::parse(&text("period")?).ok_or_else(broken)?,
            zone: Zone::parse(&text("time_zone")?).ok_or_else(broken)?,
            amount: row.get("amount")?,
            mode: Mode::parse(&text("mode")?).ok_or_else(broken)?,
            since: row.get("counts_since")?,
        }))
    }
}

/// The change-log entry that names a scope.
fn change_id(scope: Scope) -> String {
    let (kind, id) = columns(scope);
    match scope {
        Scope::User(organization, _) => format!("{kind}:{id}:{organization}"),
        _ => format!("{kind}:{id}"),
    }
}

fn changed_scope(entity_id: &str) -> Option<Scope> {
    let mut parts = entity_id.split(':');
    let (kind, id) = (parts.next()?, parts.next()?);
    let organization = match parts.next() {
        Some(organization) => OrganizationId::parse(organization)?,
        None => OrganizationId::from_bits(0),
    };
    read_scope(kind, id, organization)
}

/// All limits, as of a change. Kept up to date inside of the batches that count towards them.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) limits: Limits,
    seen: Option<i64>,
}

impl Known {
    /// Brings the limits to what this very transaction sees; says whether that changed any.
    pub(crate) async fn refresh(&mut self, tx: &mut Tx) -> Result<bool> {
        let newest = tx.last_change().await?;
        let mut is_changed = false;
        match self.seen {
            Some(seen) if seen == newest => {}
            Some(seen) => {
                for entity_id in tx.changed_after(seen, Entity::SpendLimit).await? {
                    if let Some(scope) = changed_scope(&entity_id) {
                        let limits = of_scope(tx, scope).await?;
                        self.limits.set(scope, limits);
                        is_changed = true;
                    }
                }
            }
            None => {
                self.limits = all(tx).await?;
                is_changed = true;
            }
        }
        self.seen = Some(newest);
        Ok(is_changed)
    }
}

/// The limits that a payer's requests count towards, for work outside of the batches.
pub(crate) async fn of_payer(tx: &mut Tx, payer: &Payer) -> Result<Limits> {
    let mut limits = Limits::default();
    for scope in payer.scopes() {
        let of_scope = of_scope(tx, scope).await?;
        limits.set(scope, of_scope);
    }
    Ok(limits)
}

pub(crate) async fn all(tx: &mut Tx) -> Result<Limits> {
    let rows: Vec<Stored> =
        tx.all("SELECT * FROM spend_limit ORDER BY scope, scope_id, organization_id", &[]).await?;
    let mut limits = Limits::default();
    for of_scope in rows.chunk_by(|a, b| a.0.scope == b.0.scope) {
        limits.set(of_scope[0].0.scope, of_scope.iter().map(|stored| stored.0.clone()));
    }
    Ok(limits)
}

/// Every limit, one by one.
pub(crate) async fn every(tx: &mut Tx) -> Result<Vec<Limit>> {
    let rows: Vec<Stored> = tx.all("SELECT * FROM spend_limit ORDER BY id", &[]).await?;
    Ok(rows.into_iter().map(|stored| stored.0).collect())
}

/// The budgets of the present periods of organizations and projects, at most `count` of them.
pub async fn present(tx: &mut Tx, now: Timestamp, count: usize) -> Result<Vec<Budget>> {
    let limits = every(tx).await?;
    let of_many = limits
        .into_iter()
        .filter(|limit| matches!(limit.scope, Scope::Organization(_) | Scope::Project(_)))
        .take(count);
    let mut budgets = Vec::new();
    for limit in of_many {
        budgets.push(current(tx, limit, now).await?);
    }
    Ok(budgets)
}

/// The limits of a scope, the longest interval first.
pub async fn of_scope(tx: &mut Tx, scope: Scope) -> Result<Vec<Limit>> {
    let (kind, id) = columns(scope);
    let rows: Vec<Stored> =
        tx.all("SELECT * FROM spend_limit WHERE scope = $1 AND scope_id = $2", &params![kind, id]).await?;
    let mut limits: Vec<Limit> =
        rows.into_iter().map(|stored| stored.0).filter(|limit| limit.scope == scope).collect();
    limits.sort_by_key(|limit| std::cmp::Reverse(limit.interval));
    Ok(limits)
}

/// The limit of a scope and an interval.
pub async fn find(tx: &mut Tx, scope: Scope, interval: Interval) -> Result<Option<Limit>> {
    Ok(of_scope(tx, scope).await?.into_iter().find(|limit| limit.interval == interval))
}

/// What is to be set.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub interval: Interval,
    pub zone: Zone,
    pub amount: Money,
    pub mode: Mode,
}

/// Sets or replaces the limit of a scope for an interval. In force for the next request.
pub async fn set(
    tx: &mut Tx,
    organization: OrganizationId,
    scope: Scope,
    wanted: &Wanted,
    clock: &Clock,
) -> Result<Budget> {
    let (kind, id) = columns(scope);
    let (now, new_id): (_, SpendLimitId) = (clock.now(), clock.next_id());
    let before = find(tx, scope, wanted.interval).await?;
    // Another zone has other periods, which nobody counted yet.
    let is_recounted = before.as_ref().is_none_or(|before| before.zone != wanted.zone);
    if let Some(before) = before.as_ref().filter(|_| is_recounted) {
        tx.execute("DELETE FROM budget WHERE spend_limit_id = $1", &params![before.id]).await?;
    }
    let since = match before.as_ref().filter(|_| !is_recounted) {
        Some(before) => before.since,
        None => now.max(after_newest(tx).await?),
    };
    tx.execute(
        "INSERT INTO spend_limit (id, organization_id, scope, scope_id, period, time_zone, amount, mode, counts_since,
            created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
         ON CONFLICT (organization_id, scope, scope_id, period) DO UPDATE SET time_zone = excluded.time_zone,
            amount = excluded.amount, mode = excluded.mode, counts_since = excluded.counts_since,
            updated_at = excluded.updated_at",
        &params![
            new_id,
            organization,
            kind,
            id,
            wanted.interval.as_str(),
            wanted.zone.name(),
            wanted.amount,
            wanted.mode.as_str(),
            since,
            now
        ],
    )
    .await?;
    tx.log_change(Some(organization), Entity::SpendLimit, &change_id(scope)).await?;
    let limit = find(tx, scope, wanted.interval).await?;
    let limit = Arc::new(limit.ok_or_else(|| Error::internal("a spend limit that was just set is gone"))?);
    let period = limit.period(now);
    let mut budget = match stored_budget(tx, &limit, period).await? {
        Some(budget) => budget,
        None => open(tx, &limit, period).await?,
    };
    // Whether the new amount refuses anything is yet to be seen.
    tx.execute(
        "UPDATE budget SET refused_at = NULL WHERE spend_limit_id = $1 AND period_start = $2",
        &params![limit.id, period.start],
    )
    .await?;
    budget.refused_at = None;
    Ok(budget)
}

/// Removes a limit. Holds in flight end as they would have.
pub async fn remove(tx: &mut Tx, organization: OrganizationId, limit: &Limit) -> Result<()> {
    tx.execute("DELETE FROM budget WHERE spend_limit_id = $1", &params![limit.id]).await?;
    tx.execute("DELETE FROM spend_limit WHERE id = $1", &params![limit.id]).await?;
    tx.log_change(Some(organization), Entity::SpendLimit, &change_id(limit.scope)).await
}

/// The budget of a limit as it is now.
pub async fn current(tx: &mut Tx, limit: Limit, now: Timestamp) -> Result<Budget> {
    let (limit, period) = (Arc::new(limit.clone()), limit.period(now));
    if let Some(budget) = stored_budget(tx, &limit, period).await? {
        return Ok(budget);
    }
    // Not opened yet in this period, and this may be a transaction that only reads.
    let mut budget = Budget::new(limit, period);
    if needs_sums(tx, &budget.limit, period).await? {
        sum_up(tx, &mut budget).await?;
    }
    Ok(budget)
}

pub(crate) async fn stored_budget(tx: &mut Tx, limit: &Arc<Limit>, period: Period) -> Result<Option<Budget>> {
    let row: Option<Row> = tx
        .optional(
            "SELECT settled, held, unbounded, refused_at, observed, period_end FROM budget
             WHERE spend_limit_id = $1 AND period_start = $2",
            &params![limit.id, period.start],
        )
        .await?;
    row.map(|row| {
        Ok(Budget {
            limit: Arc::clone(limit),
            period: Period { start: period.start, end: row.at(5)? },
            settled: row.at(0)?,
            held: row.at(1)?,
            unbounded: row.at(2)?,
            refused_at: row.at(3)?,
            observed: row.at(4)?,
        })
    })
    .transpose()
}

/// Opens the budget of a limit in a period, with what its scope has already spent and holds in it.
pub(crate) async fn open(tx: &mut Tx, limit: &Arc<Limit>, period: Period) -> Result<Budget> {
    let mut budget = Budget::new(Arc::clone(limit), period);
    if needs_sums(tx, limit, period).await? {
        sum_up(tx, &mut budget).await?;
    }
    tx.execute(
        "INSERT INTO budget (spend_limit_id, period_start, period_end, settled, held, unbounded, refused_at, observed)
         VALUES ($1, $2, $3, $4, $5, $6, NULL, 0)",
        &params![limit.id, period.start, period.end, budget.settled, budget.held, budget.unbounded],
    )
    .await?;
    Ok(budget)
}

pub(crate) async fn store(tx: &mut Tx, budget: &Budget) -> Result<()> {
    tx.execute(
        "UPDATE budget SET settled = $1, held = $2, unbounded = $3, refused_at = $4, observed = $5
         WHERE spend_limit_id = $6 AND period_start = $7",
        &params![
            budget.settled,
            budget.held,
            budget.unbounded,
            budget.refused_at,
            budget.observed,
            budget.limit.id,
            budget.period.start
        ],
    )
    .await?;
    Ok(())
}

/// The moment after the newest attempt, which is later than now if the clock was put back.
async fn after_newest(tx: &mut Tx) -> Result<Timestamp> {
    let newest: Option<Row> = tx.optional("SELECT id FROM attempt ORDER BY id DESC LIMIT 1", &[]).await?;
    let newest: Option<AttemptId> = newest.map(|row| row.at(0)).transpose()?;
    Ok(newest.map_or(Timestamp(0), |id| id.created_at().plus_seconds(1)))
}

/// In a period that began when the limit was there already, every attempt found the limit, and the first opened the
/// budget. In an earlier one there may have been attempts before. So there may if the rules of a zone were changed and
/// the period overlaps one of the old rules.
async fn needs_sums(tx: &mut Tx, limit: &Limit, period: Period) -> Result<bool> {
    if limit.since > period.start {
        return Ok(true);
    }
    let row: Row = tx
        .one(
            "SELECT COUNT(*) FROM budget WHERE spend_limit_id = $1 AND period_start < $3 AND period_end > $2",
            &params![limit.id, period.start, period.end],
        )
        .await?;
    Ok(row.at::<i64>(0)? > 0)
}

/// The keys whose attempts count towards a scope; `$1` is its id, `$2` the organization's.
pub(crate) fn keys_of(scope: Scope) -> (&'static str, [String; 2]) {
    let none = String::new();
    match scope {
        Scope::Organization(id) => {
            ("SELECT number FROM api_key WHERE organization_id = $1 AND $2 = ''", [id.to_string(), none])
        }
        Scope::Project(id) => {
            ("SELECT number FROM api_key WHERE project_id = $1 AND $2 = ''", [id.to_string(), none])
        }
        Scope::User(organization, id) => (
            "SELECT number FROM api_key WHERE user_id = $1 AND organization_id = $2",
            [id.to_string(), organization.to_string()],
        ),
        Scope::Key(id) => ("SELECT number FROM api_key WHERE id = $1 AND $2 = ''", [id.to_string(), none]),
    }
}

/// Sums up what the scope of a limit has settled and holds in the period.
async fn sum_up(tx: &mut Tx, budget: &mut Budget) -> Result<()> {
    let (scope, period) = (budget.limit.scope, budget.period);
    budget.settled = settled(tx, scope, period).await?;
    (budget.held, budget.unbounded) = in_flight(tx, scope, period).await?;
    Ok(())
}

/// What a scope's attempts in flight hold, and how many of them nothing bounds.
pub async fn in_flight(tx: &mut Tx, scope: Scope, period: Period) -> Result<(Money, u64)> {
    let (keys, [id, organization]) = keys_of(scope);
    let sql = Sql::from(
        "SELECT CAST(COALESCE(SUM(bound), 0) AS BIGINT), COUNT(*) - COUNT(bound) FROM attempt
         WHERE state = 'held' AND created_at >= $3 AND created_at < $4 AND key_number IN (",
    );
    let row: Row =
        tx.one(sql.push(keys).push(")"), &params![id, organization, period.start, period.end]).await?;
    Ok((row.at(0)?, row.at(1)?))
}

/// What a scope's attempts that were admitted in a period have cost, with their adjustments: by day and by hour from the
/// rollups, and where a zone's days begin within an hour, from the attempts themselves.
pub async fn settled(tx: &mut Tx, scope: Scope, period: Period) -> Result<Money> {
    let up = |at: Timestamp, width: i64| Timestamp(at.0.saturating_add(width - 1)).floor_to(width);
    let (start, end) = (period.start, period.end);
    let hours = (up(start, HOUR).min(end), end.floor_to(HOUR).max(start));
    if hours.0 >= hours.1 {
        return by_attempts(tx, scope, start, end).await;
    }
    let days = (up(hours.0, DAY), hours.1.floor_to(DAY));
    let mut sum =
        by_attempts(tx, scope, start, hours.0).await? + by_attempts(tx, scope, hours.1, end).await?;
    if days.0 < days.1 {
        sum += by_rollups(tx, scope, HOUR, hours.0, days.0).await?;
        sum += by_rollups(tx, scope, DAY, days.0, days.1).await?;
        sum += by_rollups(tx, scope, HOUR, days.1, hours.1).await?;
    } else {
        sum += by_rollups(tx, scope, HOUR, hours.0, hours.1).await?;
    }
    Ok(sum)
}

async fn by_rollups(
    tx: &mut Tx,
    scope: Scope,
    width: i64,
    start: Timestamp,
    end: Timestamp,
) -> Result<Money> {
    if start >= end {
        return Ok(Money::ZERO);
    }
    let sum =
        Sql::from("SELECT CAST(COALESCE(SUM(").push(COST).push(" + adjusted_cost), 0) AS BIGINT) FROM ");
    let (from, [first, second]) = match scope {
        Scope::Organization(id) => {
            ("usage_total WHERE organization_id = $1 AND project_id = $2", [id.to_string(), String::new()])
        }
        Scope::Project(id) => (
            "usage_total WHERE organization_id = (SELECT organization_id FROM project WHERE id = $1) AND project_id = $2",
            [id.to_string(), id.to_string()],
        ),
        Scope::User(..) | Scope::Key(_) => {
            let (keys, values) = keys_of(scope);
            let sql = sum.push("usage_rollup WHERE key_number IN (").push(keys).push(")");
            return by_rollups_of(tx, sql, values, width, start, end).await;
        }
    };
    by_rollups_of(tx, sum.push(from), [first, second], width, start, end).await
}

async fn by_rollups_of(
    tx: &mut Tx,
    of: Sql,
    [first, second]: [String; 2],
    width: i64,
    start: Timestamp,
    end: Timestamp,
) -> Result<Money> {
    let sql = of.push(" AND width = $3 AND bucket_start >= $4 AND bucket_start < $5");
    let row: Row = tx.one(sql, &params![first, second, width, start, end]).await?;
    row.at(0)
}

async fn by_attempts(tx: &mut Tx, scope: Scope, start: Timestamp, end: Timestamp) -> Result<Money> {
    if start >= end {
        return Ok(Money::ZERO);
    }
    let (keys, [id, organization]) = keys_of(scope);
    let (first, last) = (AttemptId::first_at(start), AttemptId::first_at(end));
    let sql = Sql::from("SELECT CAST(COALESCE(SUM(")
        .push(COST)
        .push(
            " + COALESCE((SELECT SUM(j.cost) FROM adjustment j WHERE j.attempt_id = attempt.id), 0)), 0) AS BIGINT)
            FROM attempt WHERE id >= $3 AND id < $4 AND state = 'settled' AND key_number IN (",
        )
        .push(keys)
        .push(")");
    let row: Row = tx.one(sql, &params![id, organization, first, last]).await?;
    row.at(0)
}

/// What a budget should say, by the attempts themselves: settled, held, and how many in flight nothing bounds.
pub(crate) async fn by_attempts_alone(
    tx: &mut Tx,
    scope: Scope,
    period: Period,
) -> Result<(Money, Money, u64)> {
    let settled = by_attempts(tx, scope, period.start, period.end).await?;
    let (held, unbounded) = in_flight(tx, scope, period).await?;
    Ok((settled, held, unbounded))
}
