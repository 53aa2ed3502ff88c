//! One batch: reads the touched budgets, lets the machine decide, writes each touched budget, rollup and attempt once.

use std::collections::HashMap;
use std::sync::Arc;

use tollgate_core::budget::{self, Budget, Reason, Refusal};
use tollgate_core::error::Kind;
use tollgate_core::time::Period;
use tollgate_core::{Error, Money, ProjectId, Result, Timestamp};
use tollgate_store::{Tx, params};

use crate::attempt::{Attempt, Outcome, State};
use crate::ledger::Entry;
use crate::rollup::Rollups;
use crate::spend_limit::{self, OpenBudget, Scope, SpendLimit};

/// What became of an entry of a batch, in the order of the entries.
pub(crate) enum Decision {
    Granted { remaining: Option<Money> },
    Refused(Error),
    Done,
}

/// Applies `entries` in one transaction. Ends come before holds, so that what they give back can be granted at once;
/// holds are decided first come, first served.
pub(crate) async fn apply(tx: &mut Tx, entries: &[Entry], now: Timestamp) -> Result<Vec<Decision>> {
    let mut batch = Batch { books: Books::default(), rollups: Rollups::default(), now };
    for entry in entries {
        if let Entry::Resolve { attempt, outcome } = entry {
            batch.resolve(tx, attempt, *outcome, false).await?;
        }
    }
    let mut decisions = Vec::with_capacity(entries.len());
    for entry in entries {
        decisions.push(match entry {
            Entry::Hold { attempt, .. } => batch.hold(tx, attempt).await?,
            Entry::Resolve { .. } | Entry::Flush(_) => Decision::Done,
        });
    }
    batch.write(tx).await?;
    Ok(decisions)
}

/// Ends holds that no process owns any more.
pub(crate) async fn recover(tx: &mut Tx, ends: &[(Attempt, Money, Outcome)], now: Timestamp) -> Result<()> {
    let mut batch = Batch { books: Books::default(), rollups: Rollups::default(), now };
    for (attempt, bound, outcome) in ends {
        batch.resolve_bound(tx, attempt, *bound, *outcome, true).await?;
    }
    batch.write(tx).await
}

struct Batch {
    books: Books,
    rollups: Rollups,
    now: Timestamp,
}

impl Batch {
    async fn hold(&mut self, tx: &mut Tx, attempt: &Arc<Attempt>) -> Result<Decision> {
        let path = self.path_of_hold(tx, attempt).await?;
        let bound = attempt.bound().map(tollgate_core::price::Bound::total);
        if let Err(refusal) = budget::hold(&mut self.books.budgets, &path, bound) {
            let refusing = path[refusal.by];
            self.books.note_refusal(refusing, refusal, self.now);
            return Ok(Decision::Refused(refusal_error(
                attempt,
                &self.books.keys[refusing],
                &self.books.budgets[refusing],
                refusal,
            )));
        }
        insert(tx, attempt).await?;
        self.books.touch(&path);
        let remaining = path.iter().map(|at| self.books.budgets[*at].remaining()).min();
        Ok(Decision::Granted { remaining })
    }

    /// The budgets a new attempt belongs to, opened if it is the first of their period.
    async fn path_of_hold(&mut self, tx: &mut Tx, attempt: &Attempt) -> Result<Vec<usize>> {
        let period = Period::month_of(attempt.created_at());
        match self.books.place(tx, attempt.project, period).await? {
            Place::NoLimit => Ok(Vec::new()),
            Place::At(at) => Ok(vec![at]),
            Place::Unopened(limit) => {
                // The sums to begin with are read from the rollups, so these must be complete.
                std::mem::take(&mut self.rollups).write(tx).await?;
                let opened = spend_limit::open(tx, &limit, period).await?;
                Ok(vec![self.books.add(attempt.project, opened)])
            }
        }
    }

    /// The budgets in which an attempt was counted when it was admitted, or when its limit was set.
    async fn path_of_end(&mut self, tx: &mut Tx, attempt: &Attempt) -> Result<Vec<usize>> {
        let period = Period::month_of(attempt.created_at());
        Ok(match self.books.place(tx, attempt.project, period).await? {
            Place::At(at) => vec![at],
            Place::NoLimit | Place::Unopened(_) => Vec::new(),
        })
    }

    async fn resolve(
        &mut self,
        tx: &mut Tx,
        attempt: &Attempt,
        outcome: Outcome,
        is_recovered: bool,
    ) -> Result<()> {
        self.resolve_bound(tx, attempt, attempt.bound_total(), outcome, is_recovered).await
    }

    async fn resolve_bound(
        &mut self,
        tx: &mut Tx,
        attempt: &Attempt,
        bound: Money,
        outcome: Outcome,
        is_recovered: bool,
    ) -> Result<()> {
        if !end(tx, attempt, outcome, self.now, is_recovered).await? {
            // Resolved before: an end counts once.
            return Ok(());
        }
        let path = self.path_of_end(tx, attempt).await?;
        budget::resolve(&mut self.books.budgets, &path, bound, outcome.cost().total());
        self.books.touch(&path);
        if outcome.state() == State::Settled {
            self.rollups.add(attempt, outcome.usage(), outcome.cost());
        }
        Ok(())
    }

    async fn write(self, tx: &mut Tx) -> Result<()> {
        self.books.write(tx).await?;
        self.rollups.write(tx).await
    }
}

/// Where the budget of a project in a period is.
#[derive(Clone, Copy)]
enum Place {
    NoLimit,
    /// Nothing was admitted in the period yet.
    Unopened(SpendLimit),
    At(usize),
}

/// The budgets that a batch touches, each read once.
#[derive(Default)]
struct Books {
    budgets: Vec<Budget>,
    keys: Vec<BookKey>,
    known: HashMap<(ProjectId, Timestamp), Place>,
}

struct BookKey {
    scope: Scope,
    opened: OpenBudget,
    is_touched: bool,
}

impl Books {
    async fn place(&mut self, tx: &mut Tx, project: ProjectId, period: Period) -> Result<Place> {
        if let Some(place) = self.known.get(&(project, period.start)) {
            return Ok(*place);
        }
        let place = match spend_limit::read(tx, Scope::Project(project)).await? {
            None => Place::NoLimit,
            Some(limit) => match spend_limit::budget(tx, &limit, period).await? {
                None => Place::Unopened(limit),
                Some(opened) => Place::At(self.add(project, opened)),
            },
        };
        self.known.insert((project, period.start), place);
        Ok(place)
    }

    fn add(&mut self, project: ProjectId, opened: OpenBudget) -> usize {
        let at = self.budgets.len();
        self.budgets.push(Budget { limit: opened.limit.amount, settled: opened.settled, held: opened.held });
        self.keys.push(BookKey { scope: Scope::Project(project), opened, is_touched: false });
        self.known.insert((project, opened.period.start), Place::At(at));
        at
    }

    fn touch(&mut self, path: &[usize]) {
        for at in path {
            self.keys[*at].is_touched = true;
        }
    }

    /// A limit that refuses because its money is spent is enforcing, which OpenAI's object shows.
    fn note_refusal(&mut self, at: usize, refusal: Refusal, now: Timestamp) {
        let key = &mut self.keys[at];
        if refusal.reason == Reason::Exhausted && key.opened.refused_at.is_none() {
            key.opened.refused_at = Some(now);
            key.is_touched = true;
        }
    }

    async fn write(&self, tx: &mut Tx) -> Result<()> {
        for (key, budget) in self.keys.iter().zip(&self.budgets).filter(|(key, _)| key.is_touched) {
            let opened = &key.opened;
            tx.execute(
                "UPDATE budget SET settled = $1, held = $2, refused_at = $3
                 WHERE spend_limit_id = $4 AND period_start = $5",
                &params![
                    budget.settled,
                    budget.held,
                    opened.refused_at,
                    opened.limit.id,
                    opened.period.start
                ],
            )
            .await?;
        }
        Ok(())
    }
}

/// Seconds after which money that is only held may be free again. Holds end with their requests, in seconds.
const RETRY_HELD_AFTER: &str = "2";

fn refusal_error(attempt: &Attempt, key: &BookKey, budget: &Budget, refusal: Refusal) -> Error {
    let limit = budget.limit.dollars();
    let Scope::Project(project) = key.scope;
    match refusal.reason {
        Reason::Exhausted => Error::new(Kind::QuotaExhausted, exhausted(attempt, key, budget, project))
            .code("project_spend_limit_exceeded")
            .header("x-should-retry", "false"),
        Reason::Held => Error::new(
            Kind::BudgetHeld,
            format!(
                "What is left of the spend limit of {limit} of project `{project}` is reserved for requests in flight. \
                 Please try again in a moment."
            ),
        )
        .code("budget_held_by_inflight")
        .header("retry-after", RETRY_HELD_AFTER),
        Reason::Unbounded if attempt.is_priced() => Error::new(
            Kind::InvalidRequest,
            format!(
                "The cost of this request to `{}` has no upper bound, and project `{project}` has a hard spend limit. \
                 Limit its output (`max_completion_tokens`), or have an operator set `max_output_tokens` and \
                 `context_tokens` of the model.",
                attempt.model
            ),
        )
        .code("cost_not_boundable"),
        Reason::Unbounded => Error::new(
            Kind::InvalidRequest,
            format!(
                "The model `{}` has no price, and project `{project}` has a hard spend limit. An operator can set the \
                 price.",
                attempt.model
            ),
        )
        .code("model_price_unknown")
        .param("model"),
    }
}

/// Whether all is spent, or only too little is left for this request, are two things to whoever has to mend it.
fn exhausted(attempt: &Attempt, key: &BookKey, budget: &Budget, project: ProjectId) -> String {
    let (limit, left) = (budget.limit.dollars(), budget.limit - budget.settled);
    let again = key.opened.period.end;
    if left <= Money::ZERO {
        return format!(
            "Project `{project}` has reached its spend limit of {limit} for this month. It can be raised, and starts anew \
             at {again}."
        );
    }
    format!(
        "This request could cost up to {}, and of the spend limit of {limit} of project `{project}` only {} is left until \
         {again}. Limit its output (`max_completion_tokens`), or have the limit raised.",
        attempt.bound_total().dollars(),
        left.dollars(),
    )
}

async fn insert(tx: &mut Tx, attempt: &Attempt) -> Result<()> {
    let at_bound = attempt.at_bound();
    let (usage, cost) = (at_bound.usage(), at_bound.cost());
    tx.execute(
        "INSERT INTO attempt (id, attempt_of, organization_id, project_id, api_key_id, owner_id, endpoint, model,
            upstream_id, state, usage_source, is_recovered, is_priced, bound, cost, input_cost, cached_input_cost,
            cache_write_cost, output_cost, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
            created_at, resolved_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'held', NULL, $10, $11, $12, $13, $14, 0, 0, $15, $16, 0, 0, $17,
            $18, NULL)",
        &params![
            attempt.id,
            attempt.attempt_of,
            attempt.organization,
            attempt.project,
            attempt.key,
            attempt.owner,
            attempt.endpoint.as_str(),
            attempt.model,
            attempt.upstream,
            false,
            attempt.is_priced(),
            attempt.bound_total(),
            cost.total(),
            cost.input,
            cost.output,
            usage.input,
            usage.output,
            attempt.created_at(),
        ],
    )
    .await?;
    Ok(())
}

/// Ends the attempt unless it has ended already; says whether it did.
async fn end(
    tx: &mut Tx,
    attempt: &Attempt,
    outcome: Outcome,
    now: Timestamp,
    is_recovered: bool,
) -> Result<bool> {
    let (usage, cost) = (outcome.usage(), outcome.cost());
    let ended = tx
        .execute(
            "UPDATE attempt SET state = $1, usage_source = $2, is_recovered = $3, cost = $4, input_cost = $5,
                cached_input_cost = $6, cache_write_cost = $7, output_cost = $8, input_tokens = $9,
                cached_input_tokens = $10, cache_write_tokens = $11, output_tokens = $12, resolved_at = $13
             WHERE id = $14 AND state = 'held'",
            &params![
                outcome.state().as_str(),
                outcome.source().map(crate::UsageSource::as_str),
                is_recovered,
                cost.total(),
                cost.input,
                cost.cached_input,
                cost.cache_write,
                cost.output,
                usage.input,
                usage.cached_input(),
                usage.cache_write(),
                usage.output,
                now,
                attempt.id,
            ],
        )
        .await?;
    Ok(ended > 0)
}
