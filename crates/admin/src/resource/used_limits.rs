//! Spend limits of every level that are nearly used up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::page::{self, Page};
use tollgate_core::{Error, Money, Permission, ProjectId, Result, SpendLimitId, Timestamp};
use tollgate_store::{FromRow, Row, params};

use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    Operations::new()
        .get("/tollgate/v1/spend_limits", "list-used-spend-limits", Needs(Permission::SpendLimitsRead), list)
        .after_settling()
        .reading_long()
}

/// A limit with what was spent of it and is held in its present period.
#[derive(Serialize, JsonSchema)]
pub(crate) struct UsedLimit {
    object: &'static str,
    id: SpendLimitId,
    /// `organization`, `project`, `user` or `api_key`.
    scope: String,
    scope_id: String,
    /// A name, or the address of a user; the id, for whoever may not see such things.
    scope_name: String,
    /// Of a key's or a project's.
    project_id: Option<ProjectId>,
    /// In cents.
    threshold_amount: i64,
    currency: &'static str,
    interval: String,
    time_zone: String,
    mode: String,
    /// Decimal dollars.
    spent: Money,
    held: Money,
    /// Both together, in whole percent of the limit.
    used_percent: i64,
    /// When it first refused a request in this period because the money was spent.
    refused_at: Option<Timestamp>,
    period_start: Timestamp,
    period_end: Timestamp,
}

impl FromRow for UsedLimit {
    fn from_row(row: &Row) -> Result<Self> {
        let (amount, spent, held): (Money, Money, Money) =
            (row.get("amount")?, row.get("settled")?, row.get("held")?);
        let used = i128::from((spent + held).nanos()) * 100 / i128::from(amount.nanos().max(1));
        Ok(Self {
            object: "tollgate.spend_limit",
            id: row.get("id")?,
            scope: row.get("scope")?,
            scope_id: row.get("scope_id")?,
            scope_name: row.get("scope_name")?,
            project_id: row.get("scope_project")?,
            threshold_amount: amount.cents(),
            currency: "USD",
            interval: row.get("period")?,
            time_zone: row.get("time_zone")?,
            mode: row.get("mode")?,
            spent,
            held,
            used_percent: i64::try_from(used).unwrap_or(i64::MAX),
            refused_at: row.get("refused_at")?,
            period_start: row.get("period_start")?,
            period_end: row.get("period_end")?,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListUsed {
    limit: Option<i64>,
    /// From 1 to 100; 80 unless given.
    used_percent_min: Option<i64>,
}

/// Budgets begin with the first request of a period, so one that is there is used. No period is longer than a month.
const USED: &str =
    "SELECT l.id, l.scope, l.scope_id, l.period, l.time_zone, l.amount, l.mode, b.settled, b.held, b.refused_at,
        b.period_start, b.period_end, COALESCE(o.name, p.name, u.email, k.name, '') AS scope_name,
        COALESCE(p.id, k.project_id) AS scope_project
    FROM spend_limit l
        JOIN budget b ON b.spend_limit_id = l.id AND b.period_start > $2 - 32 * 86400 AND b.period_start <= $2 AND b.period_end > $2
        LEFT JOIN organization o ON l.scope = 'organization' AND o.id = l.scope_id
        LEFT JOIN project p ON l.scope = 'project' AND p.id = l.scope_id
        LEFT JOIN app_user u ON l.scope = 'user' AND u.id = l.scope_id
        LEFT JOIN api_key k ON l.scope = 'api_key' AND k.id = l.scope_id
    WHERE l.organization_id = $1 AND b.settled + b.held >= l.amount / 100 * $3 AND p.archived_at IS NULL AND k.revoked_at IS NULL
    ORDER BY (b.settled + b.held) / (l.amount / 10000 + 1) DESC, l.id LIMIT $4";

/// The fullest first, and only so many: there is no page after it.
async fn list(cx: &mut Cx, input: ListUsed) -> Result<Page<UsedLimit>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let share = input.used_percent_min.unwrap_or(80);
    if !(1..=100).contains(&share) {
        let message = format!("Invalid 'used_percent_min': expected a value from 1 to 100, but got {share}.");
        return Err(Error::invalid("used_percent_min", message));
    }
    let values = params![cx.organization(), cx.now, share, limit];
    let mut rows: Vec<UsedLimit> = cx.tx.all(USED, &values).await?;
    let needs = [
        ("project", Permission::ProjectsRead),
        ("user", Permission::UsersRead),
        ("api_key", Permission::ProjectApiKeysRead),
    ];
    for (scope, _) in needs.into_iter().filter(|(_, needs)| !cx.actor.may(*needs)) {
        for limit in rows.iter_mut().filter(|limit| limit.scope == scope) {
            limit.scope_name.clone_from(&limit.scope_id);
        }
    }
    Ok(Page::with_more(rows, false, |limit| limit.id.to_string()))
}
