//! After a crash: every hold that is still open counts as sent, and its process is gone. It is settled at its bound
//! where a hard limit applies, elsewhere at the bound of its input, for no output was seen. Such rows say `recovered`.

use tollgate_core::price::{Cost, TokenUsage};
use tollgate_core::{AttemptId, Clock, Error, Money, Result};
use tollgate_store::{Db, FromRow, Row, Tx, params};

use crate::attempt::{Attempt, Endpoint, Outcome, UsageSource};
use crate::batch;
use crate::spend_limit::{self, Scope};

const AT_ONCE: usize = 1_000;

/// An open attempt as it stands in the database, whose price died with its process.
struct OpenAttempt {
    attempt: Attempt,
    bound: Money,
    cost: Cost,
    usage: TokenUsage,
}

impl FromRow for OpenAttempt {
    fn from_row(row: &Row) -> Result<Self> {
        let endpoint: String = row.get("endpoint")?;
        let usage = TokenUsage {
            input: row.get("input_tokens")?,
            output: row.get("output_tokens")?,
            ..TokenUsage::default()
        };
        Ok(Self {
            attempt: Attempt {
                id: row.get("id")?,
                attempt_of: row.get("attempt_of")?,
                organization: row.get("organization_id")?,
                project: row.get("project_id")?,
                key: row.get("api_key_id")?,
                owner: row.get("owner_id")?,
                endpoint: Endpoint::parse(&endpoint).ok_or_else(|| Error::internal("an unknown endpoint"))?,
                model: row.get("model")?,
                upstream: row.get("upstream_id")?,
                price: None,
                input_max: None,
                output_max: None,
                input_estimate: usage.input,
            },
            bound: row.get("bound")?,
            cost: Cost { input: row.get("input_cost")?, output: row.get("output_cost")?, ..Cost::default() },
            usage,
        })
    }
}

/// Settles all open holds and returns how many there were. To be run before anything is admitted.
pub async fn settle_open_holds(db: &Db, clock: &Clock) -> Result<usize> {
    let mut settled = 0;
    loop {
        let now = clock.now();
        let count = db
            .write(move |tx| {
                Box::pin(async move {
                    let open = open_attempts(tx).await?;
                    let mut ends = Vec::with_capacity(open.len());
                    for open in open {
                        let outcome = outcome(tx, &open).await?;
                        ends.push((open.attempt, open.bound, outcome));
                    }
                    batch::recover(tx, &ends, now).await?;
                    Ok(ends.len())
                })
            })
            .await?;
        settled += count;
        if count < AT_ONCE {
            return Ok(settled);
        }
    }
}

async fn open_attempts(tx: &mut Tx) -> Result<Vec<OpenAttempt>> {
    tx.all("SELECT * FROM attempt WHERE state = 'held' ORDER BY id LIMIT $1", &params![AT_ONCE]).await
}

async fn outcome(tx: &mut Tx, open: &OpenAttempt) -> Result<Outcome> {
    let is_limited = spend_limit::read(tx, Scope::Project(open.attempt.project)).await?.is_some();
    let (usage, cost) = if is_limited {
        (open.usage, open.cost)
    } else {
        (TokenUsage { output: 0, ..open.usage }, Cost { output: Money::ZERO, ..open.cost })
    };
    Ok(Outcome::Settled { source: UsageSource::Bound, usage, cost })
}

/// The ids of attempts that no process has ended yet.
pub async fn open_holds(tx: &mut Tx) -> Result<Vec<AttemptId>> {
    let rows: Vec<Row> = tx.all("SELECT id FROM attempt WHERE state = 'held' ORDER BY id", &[]).await?;
    rows.iter().map(|row| row.at(0)).collect()
}
