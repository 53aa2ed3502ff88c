//! Whether the books balance, to the nano-dollar: attempts, budgets and rollups say the same.

use std::fmt;

use tollgate_core::{AttemptId, Money, Result, Timestamp};
use tollgate_store::{Db, FromRow, Row, Tx};

use crate::rollup::{DAY, HOUR};

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
    db.read(|tx| Box::pin(check_in(tx))).await
}

async fn check_in(tx: &mut Tx) -> Result<Report> {
    let totals: Row = tx
        .one(
            "SELECT COUNT(*) AS attempts,
                (SELECT COUNT(*) FROM attempt WHERE state = 'held') AS open_holds,
                (SELECT COUNT(*) FROM budget) AS budgets,
                CAST(COALESCE(SUM(CASE WHEN state = 'settled' THEN cost END), 0) AS BIGINT) AS settled
             FROM attempt",
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
    storage(tx, &mut report).await?;
    attempts(tx, &mut report).await?;
    budgets(tx, &mut report).await?;
    for width in [HOUR, DAY] {
        rollups(tx, &mut report, width).await?;
    }
    Ok(report)
}

async fn storage(tx: &mut Tx, report: &mut Report) -> Result<()> {
    for row in tx.all::<Row>("PRAGMA integrity_check", &[]).await? {
        let verdict: String = row.at(0)?;
        if verdict != "ok" {
            report.faults.push(format!("the database file: {verdict}"));
        }
    }
    for row in tx.all::<Row>("PRAGMA foreign_key_check", &[]).await? {
        report.faults.push(format!("a row of {} refers to nothing", row.at::<String>(0)?));
    }
    Ok(())
}

/// Each attempt is in one of three states and adds up in itself.
async fn attempts(tx: &mut Tx, report: &mut Report) -> Result<()> {
    let broken: Vec<Row> = tx
        .all(
            "SELECT id, state FROM attempt
             WHERE NOT (
                (state = 'held' AND resolved_at IS NULL AND usage_source IS NULL)
                OR (state = 'settled' AND resolved_at IS NOT NULL AND usage_source IS NOT NULL)
                OR (state = 'voided' AND resolved_at IS NOT NULL AND usage_source IS NULL AND cost = 0))
                OR cost <> input_cost + cached_input_cost + cache_write_cost + output_cost
                OR cost < 0 OR bound < 0 OR input_tokens < cached_input_tokens + cache_write_tokens
             LIMIT 100",
            &[],
        )
        .await?;
    for row in broken {
        let (id, state): (AttemptId, String) = (row.at(0)?, row.at(1)?);
        report.faults.push(format!("attempt {id} ({state}) does not add up in itself"));
    }
    Ok(())
}

struct BudgetSums {
    limit: String,
    period_start: Timestamp,
    settled: Money,
    held: Money,
    settled_by_attempts: Money,
    held_by_attempts: Money,
}

impl FromRow for BudgetSums {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            limit: row.get("spend_limit_id")?,
            period_start: row.get("period_start")?,
            settled: row.get("settled")?,
            held: row.get("held")?,
            settled_by_attempts: row.get("settled_by_attempts")?,
            held_by_attempts: row.get("held_by_attempts")?,
        })
    }
}

/// A budget is the sums over the attempts of its scope and period.
async fn budgets(tx: &mut Tx, report: &mut Report) -> Result<()> {
    let starts: Vec<Row> =
        tx.all("SELECT DISTINCT period_start FROM budget ORDER BY period_start", &[]).await?;
    for start in starts {
        let period = tollgate_core::time::Period::month_of(start.at(0)?);
        let sums: Vec<BudgetSums> = tx
            .all(
                "SELECT b.spend_limit_id, b.period_start, b.settled, b.held,
                    CAST(COALESCE(SUM(CASE WHEN a.state = 'settled' THEN a.cost END), 0) AS BIGINT)
                        AS settled_by_attempts,
                    CAST(COALESCE(SUM(CASE WHEN a.state = 'held' THEN a.bound END), 0) AS BIGINT) AS held_by_attempts
                 FROM budget b
                    LEFT JOIN spend_limit l ON l.id = b.spend_limit_id
                    LEFT JOIN attempt a ON a.project_id = l.scope_id AND l.scope = 'project'
                        AND a.created_at >= $1 AND a.created_at < $2
                 WHERE b.period_start = $1
                 GROUP BY b.spend_limit_id, b.period_start, b.settled, b.held",
                &tollgate_store::params![period.start, period.end],
            )
            .await?;
        report.faults.extend(sums.iter().filter_map(budget_fault));
    }
    Ok(())
}

fn budget_fault(sums: &BudgetSums) -> Option<String> {
    let BudgetSums { limit, period_start, settled, held, settled_by_attempts, held_by_attempts } = sums;
    (settled != settled_by_attempts || held != held_by_attempts).then(|| {
        format!(
            "budget {limit} from {period_start}: settled ${settled} held ${held}, but its attempts say \
             ${settled_by_attempts} and ${held_by_attempts}"
        )
    })
}

/// The rollups of a width are the settled attempts, bucket by bucket.
async fn rollups(tx: &mut Tx, report: &mut Report, width: i64) -> Result<()> {
    let differing: Vec<Row> = tx
        .all(
            "WITH by_attempts AS (
                SELECT (created_at / $1) * $1 AS bucket_start, organization_id, project_id, api_key_id, owner_id,
                    endpoint, model, COUNT(*) AS requests, CAST(SUM(cost) AS BIGINT) AS cost,
                    CAST(SUM(input_tokens) AS BIGINT) AS input_tokens,
                    CAST(SUM(output_tokens) AS BIGINT) AS output_tokens
                FROM attempt WHERE state = 'settled'
                GROUP BY 1, 2, 3, 4, 5, 6, 7),
             by_rollups AS (
                SELECT bucket_start, organization_id, project_id, api_key_id, owner_id, endpoint, model, requests, cost,
                    input_tokens, output_tokens
                FROM usage_rollup WHERE width = $1
                    AND cost = input_cost + cached_input_cost + cache_write_cost + output_cost)
             SELECT bucket_start, project_id, api_key_id, model FROM (
                SELECT * FROM (SELECT * FROM by_attempts EXCEPT SELECT * FROM by_rollups) AS missing
                UNION
                SELECT * FROM (SELECT * FROM by_rollups EXCEPT SELECT * FROM by_attempts) AS invented) AS differing
             LIMIT 100",
            &tollgate_store::params![width],
        )
        .await?;
    for row in differing {
        let (bucket, key, model): (Timestamp, String, String) =
            (row.get("bucket_start")?, row.get("api_key_id")?, row.get("model")?);
        report
            .faults
            .push(format!("the {width} s rollup from {bucket} of {key} and {model} is not its attempts"));
    }
    let orphans: Row =
        tx.one("SELECT COUNT(*) AS rows FROM usage_rollup WHERE width NOT IN (3600, 86400)", &[]).await?;
    if orphans.get::<i64>("rows")? > 0 {
        report.faults.push("rollups of an unknown width".to_owned());
    }
    Ok(())
}
