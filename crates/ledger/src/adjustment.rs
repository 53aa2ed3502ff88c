//! Corrections and refunds: what a settled attempt cost is changed by further rows, never in its own.
//!
//! An adjustment lands where its attempt was counted: in the buckets of the moment when that was admitted, and in the
//! budgets of the periods that hold it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use tollgate_core::price::Tier;
use tollgate_core::{AdjustmentId, AttemptId, Clock, Error, Money, OrganizationId, Result, Timestamp};
use tollgate_store::{FromRow, Row, Sql, Tx, params};

use crate::attempt::Endpoint;
use crate::recovery::read_payer;
use crate::rollup::{COST, Line};
use crate::sums::Sums;
use crate::{batch, spend_limit};

/// What an adjustment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What it really cost has become known.
    Correction,
    /// Part of what it cost is given back.
    Refund,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Correction => "correction",
            Self::Refund => "refund",
        }
    }
}

/// One adjustment, as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Adjustment {
    pub id: AdjustmentId,
    pub object: &'static str,
    pub request_id: AttemptId,
    pub kind: String,
    /// By so much more in decimal dollars, or less if negative.
    pub cost: Money,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub reason: String,
    pub created_by: Option<String>,
    pub created_at: Timestamp,
}

impl FromRow for Adjustment {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            object: "tollgate.adjustment",
            request_id: row.get("attempt_id")?,
            kind: row.get("kind")?,
            cost: row.get("cost")?,
            input_tokens: row.get("input_tokens")?,
            output_tokens: row.get("output_tokens")?,
            reason: row.get("reason")?,
            created_by: row.get("created_by")?,
            created_at: row.get("created_at")?,
        })
    }
}

/// What is to be changed, and why.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub kind: Kind,
    pub change: Change,
    pub reason: String,
    pub by: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// To so much in all.
    To { cost: Money, input_tokens: Option<u64>, output_tokens: Option<u64> },
    /// By so much less.
    Less(Money),
}

/// Adjusts a settled attempt of an organization.
pub async fn adjust(
    tx: &mut Tx,
    clock: &Clock,
    organization: OrganizationId,
    attempt: AttemptId,
    wanted: &Wanted,
) -> Result<Adjustment> {
    let row: Option<Row> = tx
        .optional(
            Sql::from("SELECT a.*, ")
                .push(COST)
                .push(
                    " AS cost, k.organization_id, k.project_id, k.user_id, k.id AS api_key_id
                 FROM attempt a JOIN api_key k ON k.number = a.key_number WHERE a.id = $1 AND k.organization_id = $2",
                ),
            &params![attempt, organization],
        )
        .await?;
    let row = row.ok_or_else(|| Error::not_found("request"))?;
    if row.get::<String>("state")? != "settled" {
        let message =
            "Only a settled request can be adjusted: this one has cost nothing, or is not over yet.";
        return Err(Error::bad_request(message).code("not_settled"));
    }
    let before: Row = tx
        .one(
            "SELECT CAST(COALESCE(SUM(cost), 0) AS BIGINT), CAST(COALESCE(SUM(input_tokens), 0) AS BIGINT),
                CAST(COALESCE(SUM(output_tokens), 0) AS BIGINT) FROM adjustment WHERE attempt_id = $1",
            &params![attempt],
        )
        .await?;
    let (cost, input, output) = difference(&row, &before, wanted.change)?;
    let adjustment = Adjustment {
        id: clock.next_id(),
        object: "tollgate.adjustment",
        request_id: attempt,
        kind: wanted.kind.as_str().to_owned(),
        cost,
        input_tokens: input,
        output_tokens: output,
        reason: wanted.reason.clone(),
        created_by: wanted.by.clone(),
        created_at: clock.now(),
    };
    insert(tx, &adjustment).await?;
    let payer = read_payer(&row)?;
    let endpoint: String = row.get("endpoint")?;
    let tier: String = row.get("service_tier")?;
    let line = Line {
        endpoint: Endpoint::parse(&endpoint).ok_or_else(|| Error::internal("an unknown endpoint"))?,
        model: Arc::from(row.get::<String>("model")?),
        upstream: row.get("upstream_id")?,
        tier: Tier::parse(&tier).ok_or_else(|| Error::internal("an unknown service tier"))?,
        label_set: row.get("label_set")?,
    };
    let sums = Sums { adjusted_cost: cost, input_tokens: input, output_tokens: output, ..Sums::default() };
    let limits = spend_limit::of_payer(tx, &payer).await?;
    let by = (&payer, row.get("key_number")?);
    batch::adjust(tx, &limits, by, &line, attempt.created_at(), &sums).await?;
    Ok(adjustment)
}

/// By how much cost, input and output change.
fn difference(row: &Row, before: &Row, change: Change) -> Result<(Money, i64, i64)> {
    let now: Money = row.get::<Money>("cost")? + before.at(0)?;
    let tokens = |column: &str, position: usize| -> Result<i64> {
        Ok(row.get::<i64>(column)? + before.at::<i64>(position)?)
    };
    match change {
        Change::Less(amount) if amount > now => {
            let message =
                format!("Invalid 'amount': the request has cost {now}, and no more can be given back.");
            Err(Error::invalid("amount", message))
        }
        Change::Less(amount) => Ok((Money::ZERO - amount, 0, 0)),
        Change::To { cost, input_tokens, output_tokens } => {
            let to = |wanted: Option<u64>, now: i64| {
                wanted.map_or(0, |wanted| i64::try_from(wanted).unwrap_or(i64::MAX).saturating_sub(now))
            };
            let (input, output) = (tokens("input_tokens", 1)?, tokens("output_tokens", 2)?);
            Ok((cost - now, to(input_tokens, input), to(output_tokens, output)))
        }
    }
}

async fn insert(tx: &mut Tx, adjustment: &Adjustment) -> Result<()> {
    tx.execute(
        "INSERT INTO adjustment (id, attempt_id, kind, cost, input_tokens, output_tokens, reason, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &params![
            adjustment.id,
            adjustment.request_id,
            adjustment.kind,
            adjustment.cost,
            adjustment.input_tokens,
            adjustment.output_tokens,
            adjustment.reason,
            adjustment.created_by,
            adjustment.created_at,
        ],
    )
    .await?;
    Ok(())
}

/// The adjustments of an attempt, oldest first.
pub async fn of(tx: &mut Tx, attempt: AttemptId) -> Result<Vec<Adjustment>> {
    tx.all("SELECT * FROM adjustment WHERE attempt_id = $1 ORDER BY id", &params![attempt]).await
}
