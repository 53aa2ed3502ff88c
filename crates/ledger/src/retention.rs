//! An end to how long requests are kept. Their rows are deleted, day by day and a few at a time; the sums stay, and so do
//! the budgets. What was admitted before an organization's `requests_from` is gone, all of it.

use std::time::Duration;

use tollgate_core::{AttemptId, Clock, Error, OrganizationId, Result, Timestamp};
use tollgate_store::{Db, Row, Sql, Tx, params};

/// As long as the longest period of a limit, and what may still be corrected of it: what it counts can be counted again.
pub const DAYS_MIN: i64 = 35;
pub const DAYS_MAX: i64 = 36_500;
/// How often it is looked whether a day is over.
const PAUSE: Duration = Duration::from_mins(10);
/// So many rows are looked at in one transaction, and then others have their turn.
const AT_ONCE: i64 = 1_000;
const BREATH: Duration = Duration::from_millis(20);

/// Where each organization stands whose requests do not all have to be kept, and until when its own go: whole days, for sums
/// are by the day.
const DUE: &str =
    "SELECT requests_from, ($1 - requests_days * 86400) / 86400 * 86400 AS until FROM organization
    WHERE requests_days IS NOT NULL AND requests_from < ($1 - requests_days * 86400) / 86400 * 86400";

/// Deletes what need not be kept any more, for as long as the process lives.
pub async fn keep(db: &Db, clock: &Clock) {
    loop {
        if let Err(error) = clear(db, clock).await {
            tracing::error!(%error, "old requests could not be deleted; trying again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Deletes all that need not be kept any more, and returns how many requests there were. The requests are gone through once for
/// all organizations, from where the first of them stands.
pub async fn clear(db: &Db, clock: &Clock) -> Result<u64> {
    let now = clock.now();
    let due: Vec<Row> = db.read(move |tx| Box::pin(async move { tx.all(DUE, &params![now]).await })).await?;
    let times = |at: usize| due.iter().map(move |row| row.at::<Timestamp>(at));
    let first = times(0).collect::<Result<Vec<_>>>()?.into_iter().min();
    let last = times(1).collect::<Result<Vec<_>>>()?.into_iter().max();
    let (Some(mut from), Some(until)) = (first, last) else { return Ok(0) };
    let mut deleted = 0;
    while from < until {
        let start = from;
        let (count, edge) =
            db.write(move |tx| Box::pin(async move { clear_some(tx, start, until, now).await })).await?;
        deleted += count;
        from = edge;
        tokio::time::sleep(BREATH).await;
    }
    if deleted > 0 {
        tracing::info!(deleted, "requests were deleted that need not be kept any more");
    }
    Ok(deleted)
}

/// Of those between two moments that need not be kept: `$1` and `$2` are ids, `$3` is now, and `$4` the first moment. Whoever
/// stands before it came to it while others' requests were gone through, and is not passed over: its turn is the next time.
const OLD: &str = " FROM attempt a JOIN api_key k ON k.number = a.key_number JOIN organization o ON o.id = k.organization_id
    WHERE a.id >= $1 AND a.id < $2 AND a.state <> 'held' AND o.requests_days IS NOT NULL AND o.requests_from >= $4
        AND a.created_at < ($3 - o.requests_days * 86400) / 86400 * 86400";

/// Up to where the next requests from a moment on go. A second is cleared whole, however much is in it.
async fn edge(tx: &mut Tx, from: Timestamp, until: Timestamp) -> Result<Timestamp> {
    let sql = "SELECT created_at FROM attempt WHERE id >= $1 AND id < $2 ORDER BY id LIMIT 1 OFFSET $3";
    let range = params![AttemptId::first_at(from), AttemptId::first_at(until), AT_ONCE];
    let next: Option<Row> = tx.optional(sql, &range).await?;
    let next = next.map(|row| row.at::<Timestamp>(0)).transpose()?;
    Ok(next.map_or(until, |next| next.max(from.plus_seconds(1)).min(until)))
}

/// Of an organization: `$1`, and no later than its own day as of `$2`.
const UNTIL: &str = "CASE WHEN $1 < ($2 - requests_days * 86400) / 86400 * 86400 THEN $1
    ELSE ($2 - requests_days * 86400) / 86400 * 86400 END";

/// Deletes what need not be kept of the next requests from a moment on, and notes that it is gone: how many that were, and
/// up to where. What is under way still after so many days is none of it.
pub(crate) async fn clear_some(
    tx: &mut Tx,
    from: Timestamp,
    until: Timestamp,
    now: Timestamp,
) -> Result<(u64, Timestamp)> {
    let edge = edge(tx, from, until).await?;
    let range = params![AttemptId::first_at(from), AttemptId::first_at(edge), now, from];
    let of_old = |table: &'static str, id: &'static str| {
        Sql::from("DELETE FROM ")
            .push(table)
            .push(" WHERE ")
            .push(id)
            .push(" IN (SELECT a.id")
            .push(OLD)
            .push(")")
    };
    tx.execute(of_old("adjustment", "attempt_id"), &range).await?;
    let deleted = tx.execute(of_old("attempt", "id"), &range).await?;
    let sql = Sql::from("UPDATE organization SET requests_from = ")
        .push(UNTIL)
        .push(" WHERE requests_days IS NOT NULL AND requests_from >= $3 AND requests_from < ")
        .push(UNTIL);
    tx.execute(sql, &params![edge, now, from]).await?;
    Ok((deleted as u64, edge))
}

/// Since when the requests of an organization are there.
pub async fn kept_from(tx: &mut Tx, organization: OrganizationId) -> Result<Timestamp> {
    let row: Option<Row> =
        tx.optional("SELECT requests_from FROM organization WHERE id = $1", &params![organization]).await?;
    row.ok_or_else(|| Error::not_found("organization"))?.at(0)
}
