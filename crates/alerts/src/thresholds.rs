//! Whether thresholds are reached.

use std::collections::BTreeMap;

use serde_json::json;
use tollgate_core::budget::Scope;
use tollgate_core::{Clock, Money, OrganizationId, Period, ProjectId, Result, SpendAlertId, Timestamp};
use tollgate_ledger::spend_limit;
use tollgate_store::{Db, FromRow, Reading, Row, Tx, params};

use crate::outbox::{self, New};

/// An alert that was not told of in this month.
#[derive(Clone, Debug)]
struct Quiet {
    id: SpendAlertId,
    organization: OrganizationId,
    project: Option<ProjectId>,
    /// In cents.
    threshold: i64,
}

impl FromRow for Quiet {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            organization: row.get("organization_id")?,
            project: row.get("project_id")?,
            threshold: row.get("threshold_amount")?,
        })
    }
}

impl Quiet {
    fn scope(&self) -> Scope {
        self.project.map_or(Scope::Organization(self.organization), Scope::Project)
    }

    /// Something must have been spent, even for a threshold of nothing.
    fn is_reached(&self, spent: Money) -> bool {
        spent > Money::ZERO && Money::from_cents(self.threshold).is_some_and(|threshold| spent >= threshold)
    }
}

/// Those that have not been told of in the month from `$1` to `$2`, and were as they are before its end.
const QUIET: &str = "SELECT a.id, a.organization_id, a.project_id, a.threshold_amount
    FROM spend_alert a LEFT JOIN project p ON p.id = a.project_id
    WHERE a.events IS NULL AND p.archived_at IS NULL AND a.changed_at < $2 AND NOT EXISTS (SELECT 1 FROM spend_alert_crossing c WHERE c.spend_alert_id = a.id AND c.period_start = $1
        AND c.threshold_amount = a.threshold_amount)";

/// What was admitted before a month's end counts to it, and may take so long.
const AFTERMATH_SECONDS: i64 = 2 * 86_400;

/// Tells of every threshold that is reached and was not told of in this month, or in the last one as long as that may still grow.
pub async fn look(db: &Db, clock: &Clock) -> Result<()> {
    let now = clock.now();
    let month = Period::month_of(now);
    if now.0 - month.start.0 < AFTERMATH_SECONDS {
        look_at(db, clock, Period::month_of(month.start.plus_seconds(-1)), now).await?;
    }
    look_at(db, clock, month, now).await
}

async fn look_at(db: &Db, clock: &Clock, month: Period, now: Timestamp) -> Result<()> {
    let reached = db.read_for(Reading::Long, move |tx| Box::pin(reached(tx, month))).await?;
    for (alert, spent) in reached {
        let clock = clock.clone();
        db.write(move |tx| {
            Box::pin(async move {
                if is_first(tx, &alert, month, now).await? {
                    let payload = payload(tx, &alert, month, spent).await?;
                    let new = New { alert: alert.id.to_string(), event: "spend_alert.reached", payload, now };
                    outbox::put(tx, &clock, new).await?;
                }
                Ok(())
            })
        })
        .await?;
    }
    Ok(())
}

async fn reached(tx: &mut Tx, month: Period) -> Result<Vec<(Quiet, Money)>> {
    let quiet: Vec<Quiet> = tx.all(QUIET, &params![month.start, month.end]).await?;
    // Many alerts look at the same sum.
    let mut sums: BTreeMap<String, Money> = BTreeMap::new();
    let mut reached = Vec::new();
    for alert in quiet {
        let name =
            alert.project.map_or_else(|| alert.organization.to_string(), |project| project.to_string());
        let spent = match sums.get(&name) {
            Some(spent) => *spent,
            None => spend_limit::settled(tx, alert.scope(), month).await?,
        };
        sums.insert(name, spent);
        if alert.is_reached(spent) {
            reached.push((alert, spent));
        }
    }
    Ok(reached)
}

/// Notes that an alert is told of, if it is still there as it was and nobody else has noted it.
async fn is_first(tx: &mut Tx, alert: &Quiet, month: Period, now: Timestamp) -> Result<bool> {
    let noted = tx
        .execute(
            "INSERT INTO spend_alert_crossing (spend_alert_id, period_start, threshold_amount, crossed_at)
             SELECT a.id, $3, a.threshold_amount, $4 FROM spend_alert a WHERE a.id = $1 AND a.threshold_amount = $2
             ON CONFLICT (spend_alert_id, period_start, threshold_amount) DO NOTHING",
            &params![alert.id, alert.threshold, month.start, now],
        )
        .await?;
    Ok(noted > 0)
}

/// What a webhook gets as `data`.
async fn payload(tx: &mut Tx, alert: &Quiet, month: Period, spent: Money) -> Result<serde_json::Value> {
    let row: Row = tx
        .one(
            "SELECT o.name AS organization_name, p.name AS project_name FROM spend_alert a
             JOIN organization o ON o.id = a.organization_id LEFT JOIN project p ON p.id = a.project_id WHERE a.id = $1",
            &params![alert.id],
        )
        .await?;
    Ok(json!({
        "id": alert.id,
        "organization_id": alert.organization,
        "organization_name": row.get::<String>("organization_name")?,
        "project_id": alert.project,
        "project_name": row.get::<Option<String>>("project_name")?,
        "threshold_amount": alert.threshold,
        "currency": "USD",
        "interval": "month",
        "spent": spent,
        "period_start": month.start,
        "period_end": month.end,
    }))
}
