//! After a crash: every hold that is still open counts as sent, and its process is gone. It is settled at its bound
//! where a hard limit applies, elsewhere at the bound of its input, for no output was seen. Such rows say `recovered`.

use std::sync::Arc;

use tollgate_core::budget::{Limits, Mode, Payer};
use tollgate_core::id::Principal;
use tollgate_core::labels::LabelSet;
use tollgate_core::price::{Cost, Request, Size, TokenUsage};
use tollgate_core::{Clock, Error, Money, Result, UserId};
use tollgate_store::{Db, FromRow, Row, Tx, params};

use crate::attempt::{Attempt, Endpoint, Flags, Outcome, UsageSource};
use crate::batch::{self, Orphan};
use crate::spend_limit;

const AT_ONCE: usize = 1_000;

/// An open attempt as it stands in the database, whose price died with its process.
struct OpenAttempt {
    attempt: Attempt,
    bound: Option<Money>,
    is_clamped: bool,
    cost: Cost,
    usage: TokenUsage,
}

/// Who pays for an attempt: of its key what the books need.
pub(crate) fn read_payer(row: &Row) -> Result<Payer> {
    let project = row.get("project_id")?;
    let user: Option<UserId> = row.get("user_id")?;
    Ok(Payer { organization: row.get("organization_id")?, project, user, key: row.get("api_key_id")? })
}

impl FromRow for OpenAttempt {
    fn from_row(row: &Row) -> Result<Self> {
        let endpoint: String = row.get("endpoint")?;
        let model: String = row.get("model")?;
        let usage = TokenUsage {
            input: row.get("input_tokens")?,
            output: row.get("output_tokens")?,
            ..TokenUsage::default()
        };
        Ok(Self {
            attempt: Attempt {
                id: row.get("id")?,
                attempt_of: row.get("attempt_of")?,
                payer: read_payer(row)?,
                key_number: row.get("key_number")?,
                endpoint: Endpoint::parse(&endpoint).ok_or_else(|| Error::internal("an unknown endpoint"))?,
                model: Arc::from(model),
                upstream: row.get("upstream_id")?,
                // Only the number matters any more.
                labels: Some(row.get("label_set")?)
                    .filter(|number| *number != 0)
                    .map(|number| Arc::new(LabelSet { number, text: String::new() })),
                request: Request { price: None, size: Size::without_output(None), ceiling: None },
                if_limited: None,
                input_estimate: usage.input,
                believable_max: u64::MAX,
                is_final: true,
                clamp_to: None,
            },
            bound: row.get("bound")?,
            is_clamped: row.get::<Option<i64>>("clamped_to")?.is_some(),
            cost: Cost {
                input: row.get("input_cost")?,
                output: row.get("output_cost")?,
                request: row.get("request_cost")?,
                tools: row.get("tool_cost")?,
                ..Cost::default()
            },
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
                    let limits = spend_limit::all(tx).await?;
                    let end = |open: OpenAttempt| {
                        let OpenAttempt { attempt, bound, is_clamped, cost, usage } = open;
                        let outcome = outcome(&limits, &attempt.payer, usage, cost);
                        Orphan { attempt, bound, is_clamped, outcome }
                    };
                    let ends: Vec<_> = open.into_iter().map(end).collect();
                    batch::recover(tx, &limits, &ends, now).await?;
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
    tx.all(
        "SELECT a.*, k.organization_id, k.project_id, k.user_id, k.id AS api_key_id
         FROM attempt a JOIN api_key k ON k.number = a.key_number
         WHERE a.state = 'held' ORDER BY a.id LIMIT $1",
        &params![AT_ONCE],
    )
    .await
}

/// How a hold ends that nobody owns any more; `usage` and `cost` are those at its bound.
pub(crate) fn outcome(limits: &Limits, payer: &Payer, usage: TokenUsage, cost: Cost) -> Outcome {
    let is_limited = limits.path(payer).iter().any(|limit| limit.mode == Mode::Enforce);
    let (usage, cost) = if is_limited {
        (usage, cost)
    } else {
        (TokenUsage { output: 0, ..usage }, Cost { output: Money::ZERO, tools: Money::ZERO, ..cost })
    };
    Outcome::Settled { source: UsageSource::Bound, usage, cost, flags: Flags::default(), reported: None }
}

/// Who owns a key: a user or a service account.
pub(crate) fn read_owner(row: &Row) -> Result<Principal> {
    match (row.get("user_id")?, row.get("service_account_id")?) {
        (Some(user), _) => Ok(Principal::User(user)),
        (None, Some(account)) => Ok(Principal::ServiceAccount(account)),
        (None, None) => Err(Error::internal("an API key without an owner")),
    }
}
