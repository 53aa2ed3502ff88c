//! What a limit would have done: the books of a scope replayed through the same machine that grants holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tollgate_core::budget::{Books, Budget, Limit, Verdict, Wish};
use tollgate_core::price::Request;
use tollgate_core::time::Stopwatch;
use tollgate_core::{AttemptId, Error, KeyId, Money, OrganizationId, Period, ProjectId, Result, Timestamp};
use tollgate_store::{FromRow, Row, Sql, Tx, params};

use crate::retention;
use crate::rollup::COST;
use crate::spend_limit::keys_of;

/// Others want to read as well. In this time some ten million requests are replayed.
const TIME_MAX: Duration = Duration::from_secs(15);

/// What would have been stopped. Money is in decimal US dollars.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Rehearsal {
    object: &'static str,
    /// All requests that were looked at, and what they cost.
    pub requests: u64,
    pub cost: Money,
    /// Those it would have stopped, and what they cost.
    pub refused_requests: u64,
    pub refused_cost: Money,
    pub periods: Vec<OfPeriod>,
    /// The first of those that it would have stopped.
    pub data: Vec<Stopped>,
    /// Whether there are more than are listed.
    pub has_more: bool,
}

/// One period of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OfPeriod {
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// By the requests that it would have let through.
    pub spent: Money,
    pub refused_requests: u64,
    pub refused_cost: Money,
    pub first_refused_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Stopped {
    pub request_id: AttemptId,
    pub created_at: Timestamp,
    pub api_key_id: KeyId,
    pub model: String,
    pub bound: Option<Money>,
    pub cost: Money,
}

struct Replayed {
    id: AttemptId,
    project: ProjectId,
    key: KeyId,
    model: String,
    bound: Option<Money>,
    cost: Money,
    resolved_at: Option<Timestamp>,
}

impl FromRow for Replayed {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            project: row.get("project_id")?,
            key: row.get("api_key_id")?,
            model: row.get("model")?,
            bound: row.get("bound")?,
            cost: row.get("cost")?,
            resolved_at: row.get("resolved_at")?,
        })
    }
}

/// Replays what was admitted since a moment, and in the period that holds it, in the order it was admitted.
pub async fn rehearse(
    tx: &mut Tx,
    organization: OrganizationId,
    limit: Limit,
    since: Timestamp,
    now: Timestamp,
    listed: usize,
) -> Result<Rehearsal> {
    let start = limit.period(since).start;
    let from = retention::kept_from(tx, organization).await?;
    if start < from {
        let message = format!(
            "Invalid 'since': the requests before {from} are not kept any more, and the period that holds 'since' began \
             before."
        );
        return Err(Error::invalid("since", message).code("not_kept"));
    }
    let (keys, [id, of]) = keys_of(limit.scope);
    let sql = Sql::from("SELECT a.id, a.model, a.bound, a.resolved_at, k.project_id, k.id AS api_key_id, ")
        .push(COST)
        .push(
            " AS cost FROM attempt a JOIN api_key k ON k.number = a.key_number
             WHERE a.id >= $3 AND a.id < $4 AND a.state <> 'voided' AND a.key_number IN (",
        )
        .push(keys)
        .push(") ORDER BY a.id");
    let end = AttemptId::first_at(now.plus_seconds(1));
    let mut replay = Replay::new(Arc::new(limit), since, listed);
    let reading = Stopwatch::start();
    let values = params![id, of, AttemptId::first_at(start), end];
    tx.for_each(sql, &values, |attempt: Replayed| {
        replay.admit(attempt);
        if reading.elapsed() > TIME_MAX {
            let message = "There is too much to replay. Please ask for a shorter time, by a later 'since'.";
            return Err(Error::invalid("since", message).code("too_much"));
        }
        Ok(())
    })
    .await?;
    Ok(replay.end())
}

type InFlight = (Timestamp, usize, Option<Money>, Money);

struct Replay {
    limit: Arc<Limit>,
    since: Timestamp,
    listed: usize,
    books: Books,
    /// What is in flight, by when it ends: its budget, bound and cost.
    open: BinaryHeap<Reverse<InFlight>>,
    rehearsal: Rehearsal,
}

impl Replay {
    fn new(limit: Arc<Limit>, since: Timestamp, listed: usize) -> Self {
        let rehearsal = Rehearsal {
            object: "tollgate.spend_limit.trial",
            requests: 0,
            cost: Money::ZERO,
            refused_requests: 0,
            refused_cost: Money::ZERO,
            periods: Vec::new(),
            data: Vec::new(),
            has_more: false,
        };
        Self { limit, since, listed, books: Books::default(), open: BinaryHeap::new(), rehearsal }
    }

    fn admit(&mut self, attempt: Replayed) {
        let at = attempt.id.created_at();
        while let Some(Reverse((end, budget, bound, cost))) = self.open.peek().copied() {
            if end > at {
                break;
            }
            self.open.pop();
            self.books.end(&[budget], bound, cost);
        }
        let period = self.limit.period(at);
        let budget = self.books.find((self.limit.id, period.start)).unwrap_or_else(|| {
            self.rehearsal.periods.push(OfPeriod::of(period));
            self.books.add(Budget::new(Arc::clone(&self.limit), period))
        });
        // What was admitted before fills the budget, and is not counted as looked at.
        let is_counted = at >= self.since;
        if is_counted {
            self.rehearsal.requests += 1;
            self.rehearsal.cost += attempt.cost;
        }
        let request = Request::flat(attempt.bound);
        let wish =
            Wish { project: attempt.project, request, is_final: true, clamp_to: None, may_wait: false };
        let of_period = &mut self.rehearsal.periods[budget];
        match self.books.decide(&[budget], &wish, at) {
            Verdict::Granted(_) => {
                of_period.spent += attempt.cost;
                let end = attempt.resolved_at.unwrap_or(Timestamp(i64::MAX));
                self.open.push(Reverse((end, budget, attempt.bound, attempt.cost)));
            }
            _ if is_counted => {
                of_period.refused_requests += 1;
                of_period.refused_cost += attempt.cost;
                of_period.first_refused_at.get_or_insert(at);
                self.stop(attempt, at);
            }
            _ => {}
        }
    }

    fn stop(&mut self, attempt: Replayed, created_at: Timestamp) {
        self.rehearsal.refused_requests += 1;
        self.rehearsal.refused_cost += attempt.cost;
        if self.rehearsal.data.len() >= self.listed {
            self.rehearsal.has_more = true;
            return;
        }
        let Replayed { id, key, model, bound, cost, .. } = attempt;
        self.rehearsal.data.push(Stopped { request_id: id, created_at, api_key_id: key, model, bound, cost });
    }

    fn end(self) -> Rehearsal {
        self.rehearsal
    }
}

impl OfPeriod {
    fn of(period: Period) -> Self {
        Self {
            period_start: period.start,
            period_end: period.end,
            spent: Money::ZERO,
            refused_requests: 0,
            refused_cost: Money::ZERO,
            first_refused_at: None,
        }
    }
}
