//! An end to how long requests are kept. Their rows are deleted, day by day and a few at a time; the sums stay, and so do
//! the budgets. What was admitted before an organization's `requests_from` is gone, all of it.

use std::time::Duration;

use tollgate_core::{AttemptId, Clock, Error, OrganizationId, Result, Timestamp};
use tollgate_store::{Db, FromRow, Row, Tx, params};

use crate::rollup::DAY;

/// As long as the longest period of a limit, and what may still be corrected of it: what it counts can be counted again.
pub const DAYS_MIN: i64 = 35;
pub const DAYS_MAX: i64 = 36_500;
/// How often it is looked whether a day is over.
const PAUSE: Duration = Duration::from_mins(10);
/// So many rows are looked at in one transaction, and then others have their turn.
const AT_ONCE: i64 = 1_000;
const BREATH: Duration = Duration::from_millis(20);

struct Due {
    organization: OrganizationId,
    from: Timestamp,
    days: i64,
}

impl FromRow for Due {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self { organization: row.at(0)?, from: row.at(1)?, days: row.at(2)? })
    }
}

/// Deletes what need not be kept any more, for as long as the process lives.
pub async fn keep(db: &Db, clock: &Clock) {
    loop {
        if let Err(error) = clear(db, clock).await {
            tracing::error!(%error, "old requests could not be deleted; trying again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Deletes all that need not be kept any more, and returns how many requests there were.
pub async fn clear(db: &Db, clock: &Clock) -> Result<u64> {
    let sql = "SELECT id, requests_from, requests_days FROM organization WHERE requests_days IS NOT NULL ORDER BY id";
    let due: Vec<Due> = db.read(move |tx| Box::pin(async move { tx.all(sql, &[]).await })).await?;
    let mut deleted = 0;
    for Due { organization, mut from, days } in due {
        // Whole days go, for sums are by the day.
        let until = clock.now().plus_seconds(-days.saturating_mul(DAY)).floor_to(DAY);
        while from < until {
            let (count, next) = db
                .write(move |tx| Box::pin(async move { clear_some(tx, organization, from, until).await }))
                .await?;
            (deleted, from) = (deleted + count, next);
            tokio::time::sleep(BREATH).await;
        }
    }
    if deleted > 0 {
        tracing::info!(deleted, "requests were deleted that need not be kept any more");
    }
    Ok(deleted)
}

/// Deletes the first of an organization's requests from a moment on; says up to when there are none left.
async fn clear_some(
    tx: &mut Tx,
    organization: OrganizationId,
    from: Timestamp,
    until: Timestamp,
) -> Result<(u64, Timestamp)> {
    let (first, last) = (AttemptId::first_at(from), AttemptId::first_at(until));
    let sql = "SELECT created_at FROM attempt WHERE id >= $1 AND id < $2 ORDER BY id LIMIT 1 OFFSET $3";
    let edge: Option<Row> = tx.optional(sql, &params![first, last, AT_ONCE]).await?;
    // A second is cleared whole, however much is in it.
    let edge = match edge {
        Some(row) => row.at::<Timestamp>(0)?.max(from.plus_seconds(1)).min(until),
        None => until,
    };
    let end = AttemptId::first_at(edge);
    let old = params![first, end, organization];
    tx.execute(
        "DELETE FROM adjustment WHERE attempt_id IN (SELECT a.id FROM attempt a JOIN api_key k ON k.number = a.key_number
            WHERE a.id >= $1 AND a.id < $2 AND k.organization_id = $3 AND a.state <> 'held')",
        &old,
    )
    .await?;
    let deleted = tx
        .execute(
            "DELETE FROM attempt WHERE id IN (SELECT a.id FROM attempt a JOIN api_key k ON k.number = a.key_number
                WHERE a.id >= $1 AND a.id < $2 AND k.organization_id = $3 AND a.state <> 'held')",
            &old,
        )
        .await?;
    tx.execute("UPDATE organization SET requests_from = $1 WHERE id = $2", &params![edge, organization])
        .await?;
    Ok((deleted as u64, edge))
}

/// Since when the requests of an organization are there.
pub async fn kept_from(tx: &mut Tx, organization: OrganizationId) -> Result<Timestamp> {
    let row: Option<Row> =
        tx.optional("SELECT requests_from FROM organization WHERE id = $1", &params![organization]).await?;
    row.ok_or_else(|| Error::not_found("organization"))?.at(0)
}
