//! Whether the books balance, to the nano-dollar: attempts, budgets and rollups say the same.

use std::fmt;
use std::sync::Arc;

use tollgate_core::{AttemptId, Money, Period, Result, Timestamp};
use tollgate_store::{Db, Reading, Row, Sql, Tx, params};

use crate::rollup::{COST, DAY, HOUR};
use crate::spend_limit;
use crate::sums::Sums;

/// What was counted and what is wrong.
#[derive(Debug, Default)]
pub struct Report {
    pub attempts: i64,
    pub open_holds: i64,
    pub budgets: i64,
    pub settled: Money,
    pub faults: Vec<String>,
}

impl Report {
    pub fn is_balanced(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, open_holds, budgets, settled, faults } = self;
        for fault in faults {
            writeln!(f, "FAULT {fault}")?;
        }
        let verdict = if self.is_balanced() { "balanced" } else { "NOT BALANCED" };
        write!(
            f,
            "{attempts} attempts, {open_holds} open holds, {budgets} budgets, ${settled} settled: {verdict}"
        )
    }
}

/// Checks everything in one transaction, so a server may run meanwhile.
pub async fn check(db: &Db) -> Result<Report> {
    db.read_for(Reading::Long, |tx| Box::pin(check_in(tx))).await
}

/// [`check`] in a transaction that is open.
pub async fn check_in(tx: &mut Tx) -> Result<Report> {
    let totals: Row = tx
        .one(
            Sql::from(
                "SELECT COUNT(*) AS attempts,
                    (SELECT COUNT(*) FROM attempt WHERE state = 'held') AS open_holds,
                    (SELECT COUNT(*) FROM budget) AS budgets,
                    CAST(COALESCE((SELECT SUM(cost) FROM adjustment), 0) + COALESCE(SUM(CASE WHEN state = 'settled' THEN ",
            )
            .push(COST)
            .push(" END), 0) AS BIGINT) AS settled FROM attempt"),
            &[],
        )
        .await?;
    let mut report = Report {
        attempts: totals.get("attempts")?,
        open_holds: totals.get("open_holds")?,
        budgets: totals.get("budgets")?,
        settled: totals.get("settled")?,
        faults: Vec::new(),
    };
    report.faults.extend(tx.check_storage().await?);
    attempts(tx, &mut report).await?;
    budgets(tx, &mut report).await?;
    for width in [HOUR, DAY] {
        rollups(tx, &mut report, width).await?;
    }
    widths(tx, &mut report).await?;
    Ok(report)
}

/// Each attempt is in one of three states and adds up in itself.
async fn attempts(tx: &mut Tx, report: &mut Report) -> Result<()> {
    let broken: Vec<Row> = tx
        .all(
            Sql::from(
                "SELECT id, state FROM attempt
                 WHERE NOT (
                    (state = 'held' AND resolved_at IS NULL AND usage_source IS NULL)
                    OR (state = 'settled' AND resolved_at IS NOT NULL AND usage_source IS NOT NULL)
                    OR (state = 'voided' AND resolved_at IS NOT NULL AND usage_source IS NULL AND ",
            )
            .push(COST)
            .push(
                " = 0))
                    OR input_cost < 0 OR cached_input_cost < 0 OR cache_write_cost < 0 OR output_cost < 0
                    OR drained_output_cost < 0 OR request_cost < 0 OR tool_cost < 0 OR bound < 0 OR input_tokens < cached_input_tokens + cache_write_tokens
                    OR output_tokens < drained_output_tokens
                    OR NOT EXISTS (SELECT 1 FROM api_key k WHERE k.number = attempt.key_number)
                 LIMIT 100",
            ),
            &[],
        )
        .await?;
    for row in broken {
        let (id, state): (AttemptId, String) = (row.at(0)?, row.at(1)?);
        report.faults.push(format!("attempt {id} ({state}) does not add up in itself"));
    }
    adjustments(tx, report).await
}

/// What was adjusted had been settled, and never costs less than nothing.
async fn adjustments(tx: &mut Tx, report: &mut Report) -> Result<()> {
    let sql = Sql::from(
        "SELECT a.id FROM attempt a JOIN adjustment j ON j.attempt_id = a.id GROUP BY a.id, a.state, ",
    )
    .push(COST_OF_A)
    .push(" HAVING a.state <> 'settled' OR ")
    .push(COST_OF_A)
    .push(" + SUM(j.cost) < 0 LIMIT 100");
    for row in tx.all::<Row>(sql, &[]).await? {
        let id: AttemptId = row.at(0)?;
        report.faults.push(format!("attempt {id} was adjusted beyond what it cost"));
    }
    Ok(())
}

const COST_OF_A: &str = "(a.input_cost + a.cached_input_cost + a.cache_write_cost + a.output_cost + a.drained_output_cost + a.request_cost \
    + a.tool_cost)";

/// A budget is the sums over the attempts of its scope and period.
async fn budgets(tx: &mut Tx, report: &mut Report) -> Result<()> {
    let orphans: Row = tx
        .one("SELECT COUNT(*) FROM budget b WHERE NOT EXISTS (SELECT 1 FROM spend_limit l WHERE l.id = b.spend_limit_id)", &[])
        .await?;
    if orphans.at::<i64>(0)? > 0 {
        report.faults.push("budgets of limits that do not exist".to_owned());
    }
    for limit in spend_limit::every(tx).await? {
        let limit = Arc::new(limit);
        let rows: Vec<Row> = tx
            .all(
                "SELECT b.period_start, b.period_end FROM budget b JOIN spend_limit l ON l.id = b.spend_limit_id
                    JOIN organization o ON o.id = l.organization_id
                 WHERE b.spend_limit_id = $1 AND b.period_start >= o.requests_from",
                &params![limit.id],
            )
            .await?;
        for row in rows {
            let period = Period { start: row.at(0)?, end: row.at(1)? };
            let Some(budget) = spend_limit::stored_budget(tx, &limit, period).await? else { continue };
            let by_attempts = spend_limit::by_attempts_alone(tx, limit.scope, period).await?;
            let on_the_books = (budget.settled, budget.held, budget.unbounded);
            if on_the_books != by_attempts {
                let scope = spend_limit::columns(limit.scope);
                report.faults.push(format!(
                    "budget {} of {} {} from {}: settled, held, unbounded are {on_the_books:?}, but its attempts say \
                     {by_attempts:?}",
                    limit.id, scope.0, scope.1, period.start
                ));
            }
        }
    }
    Ok(())
}

/// The rollups of a width are the settled attempts with their adjustments, bucket by bucket and part by part.
async fn rollups(tx: &mut Tx, report: &mut Report, width: i64) -> Result<()> {
    let sql = Sql::from(
        "WITH adjusted AS (
            SELECT attempt_id, SUM(cost) AS cost, SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens
            FROM adjustment GROUP BY attempt_id),
         -- Of what is not kept there are only the sums.
         kept AS (SELECT k.number, o.requests_from FROM api_key k JOIN organization o ON o.id = k.organization_id),
         by_attempts AS (
            SELECT a.key_number, (a.created_at / $1) * $1 AS bucket_start, a.endpoint, a.model, a.upstream_id,
                a.service_tier, a.label_set",
    )
    .push(Sums::OF_ATTEMPTS)
    .push(
        " FROM attempt a LEFT JOIN adjusted j ON j.attempt_id = a.id JOIN kept k ON k.number = a.key_number
            WHERE a.state = 'settled' AND (a.created_at / $1) * $1 >= k.requests_from
            GROUP BY 1, 2, 3, 4, 5, 6, 7),
         by_rollups AS (
            SELECT key_number, bucket_start, endpoint, model, upstream_id, service_tier, label_set",
    )
    .push(Sums::COLUMNS)
    .push(
        " FROM usage_rollup r JOIN kept k ON k.number = r.key_number
            WHERE r.width = $1 AND r.bucket_start >= k.requests_from)
         SELECT bucket_start, key_number, model FROM (
            SELECT * FROM (SELECT * FROM by_attempts EXCEPT SELECT * FROM by_rollups) AS missing
            UNION
            SELECT * FROM (SELECT * FROM by_rollups EXCEPT SELECT * FROM by_attempts) AS invented) AS differing
         LIMIT 100",
    );
    let differing: Vec<Row> = tx.all(sql, &params![width]).await?;
    for row in differing {
        let (bucket, key, model): (Timestamp, i64, String) = (row.at(0)?, row.at(1)?, row.at(2)?);
        report.faults.push(format!(
            "the {width} s rollup from {bucket} of key number {key} and {model} is not its attempts"
        ));
    }
    totals(tx, report, width).await
}

/// The totals of a width are the sums of the rollups, by project and for the whole organization.
async fn totals(tx: &mut Tx, report: &mut Report, width: i64) -> Result<()> {
    let sql = Sql::from(
        "WITH summed AS (
            SELECT k.organization_id, r.bucket_start, CASE WHEN l.level = 1 THEN k.project_id ELSE '' END AS project_id,
                r.endpoint, r.model, r.upstream_id, r.service_tier,
                CASE WHEN l.level = 1 THEN r.label_set ELSE 0 END AS label_set",
    )
    .push(Sums::OF_SUMS)
    .push(
        " FROM usage_rollup r JOIN api_key k ON k.number = r.key_number
                CROSS JOIN (SELECT 1 AS level UNION ALL SELECT 2 AS level) l
            WHERE r.width = $1 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8),
         totals AS (
            SELECT organization_id, bucket_start, project_id, endpoint, model, upstream_id, service_tier, label_set",
    )
    .push(Sums::COLUMNS)
    .push(
        " FROM usage_total WHERE width = $1)
         SELECT bucket_start, organization_id, project_id, model FROM (
            SELECT * FROM (SELECT * FROM totals EXCEPT SELECT * FROM summed) AS invented
            UNION
            SELECT * FROM (SELECT * FROM summed EXCEPT SELECT * FROM totals) AS missing) AS differing
         LIMIT 100",
    );
    let differing: Vec<Row> = tx.all(sql, &params![width]).await?;
    for row in differing {
        let (bucket, organization, project): (Timestamp, String, String) =
            (row.at(0)?, row.at(1)?, row.at(2)?);
        report.faults.push(format!(
            "the {width} s total from {bucket} of {organization} {project} and {} is not the sum of its keys",
            row.at::<String>(3)?
        ));
    }
    Ok(())
}

/// No other sums than those that are looked at.
async fn widths(tx: &mut Tx, report: &mut Report) -> Result<()> {
    let orphans: Row = tx
        .one(
            "SELECT (SELECT COUNT(*) FROM usage_rollup WHERE width NOT IN (3600, 86400))
                + (SELECT COUNT(*) FROM usage_total WHERE width NOT IN (3600, 86400)) AS rows",
            &[],
        )
        .await?;
    if orphans.get::<i64>("rows")? > 0 {
        report.faults.push("rollups of an unknown width".to_owned());
    }
    Ok(())
}
