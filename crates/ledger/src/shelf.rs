//! Where the books stand between two batches: what a batch reads and writes. In production that is a transaction of the
//! database; in the simulation of random histories, a map.

use std::future::Future;
use std::sync::Arc;

use tollgate_core::budget::{Budget, Limit};
use tollgate_core::labels::LabelSet;
use tollgate_core::{Period, Result, Timestamp};
use tollgate_store::{Entity, Tx, params};

use crate::attempt::{Attempt, Excess, Outcome, at_bound};
use crate::hold::Held;
use crate::rollup::Rollups;
use crate::spend_limit;

pub(crate) trait Shelf: Send {
    /// Ends attempts unless they have ended already; says of each whether it did.
    fn end(
        &mut self,
        ends: &[(&Attempt, Outcome)],
        now: Timestamp,
        is_recovered: bool,
    ) -> impl Future<Output = Result<Vec<bool>>> + Send;

    /// Stores attempts as held.
    fn insert(&mut self, holds: &[Arc<Held>]) -> impl Future<Output = Result<()>> + Send;

    /// The budget of a limit in a period, if it was opened.
    fn budget(
        &mut self,
        limit: &Arc<Limit>,
        period: Period,
    ) -> impl Future<Output = Result<Option<Budget>>> + Send;

    /// Opens a budget, with what was spent and is held in its period already.
    fn open(&mut self, limit: &Arc<Limit>, period: Period) -> impl Future<Output = Result<Budget>> + Send;

    fn store(&mut self, budget: &Budget) -> impl Future<Output = Result<()>> + Send;

    fn add(&mut self, rollups: Rollups) -> impl Future<Output = Result<()>> + Send;

    /// Notes that an answer of a model exceeded its bound, which raises the bounds of the later ones.
    fn exceeded(
        &mut self,
        model: &str,
        excess: &Excess,
        now: Timestamp,
    ) -> impl Future<Output = Result<()>> + Send;
}

impl Shelf for Tx {
    async fn end(
        &mut self,
        ends: &[(&Attempt, Outcome)],
        now: Timestamp,
        is_recovered: bool,
    ) -> Result<Vec<bool>> {
        let sets = ends.iter().map(|(attempt, outcome)| {
            let (usage, cost) = (outcome.usage(), outcome.cost());
            params![
                outcome.state().as_str(),
                outcome.source().map(crate::UsageSource::as_str),
                is_recovered,
                cost.input,
                cost.cached_input,
                cost.cache_write,
                cost.output,
                cost.drained_output,
                cost.request,
                cost.tools,
                usage.input,
                usage.cached_input(),
                usage.cache_write(),
                usage.cache_write_1h(),
                usage.audio_input(),
                usage.image_input(),
                usage.output,
                usage.reasoning(),
                usage.audio_output(),
                usage.image_output(),
                usage.drained_output(),
                usage.web_searches,
                usage.tier().as_str(),
                outcome.flags().to_stored(),
                outcome.reported().map(str::to_owned),
                now,
                attempt.id,
            ]
        });
        let ended = self
            .execute_each(
                "UPDATE attempt SET state = $1, usage_source = $2, is_recovered = $3, input_cost = $4,
                    cached_input_cost = $5, cache_write_cost = $6, output_cost = $7, drained_output_cost = $8,
                    request_cost = $9, tool_cost = $10, input_tokens = $11, cached_input_tokens = $12,
                    cache_write_tokens = $13, cache_write_1h_tokens = $14, audio_input_tokens = $15,
                    image_input_tokens = $16, output_tokens = $17, reasoning_tokens = $18, audio_output_tokens = $19,
                    image_output_tokens = $20, drained_output_tokens = $21, web_search_calls = $22,
                    service_tier = $23, flags = $24, reported_usage = $25, resolved_at = $26
                 WHERE id = $27 AND state = 'held'",
                sets,
            )
            .await?;
        Ok(ended.into_iter().map(|rows| rows > 0).collect())
    }

    async fn insert(&mut self, holds: &[Arc<Held>]) -> Result<()> {
        let sets = holds.iter().map(|held| {
            let Held { attempt, granted } = held.as_ref();
            let request = &granted.request;
            let (usage, cost) = at_bound(request, attempt.input_estimate);
            let clamped_to = request.size.output_each.filter(|_| granted.is_clamped);
            params![
                attempt.id,
                attempt.attempt_of,
                attempt.key_number,
                attempt.endpoint.as_str(),
                attempt.model,
                attempt.upstream,
                false,
                request.is_priced(),
                granted.bound,
                cost.input,
                cost.output,
                cost.request,
                cost.tools,
                usage.input,
                usage.output,
                clamped_to,
                attempt.created_at(),
                request.price_version().map(|version| version.0),
                attempt.label_set(),
            ]
        });
        self.execute_each(
            "INSERT INTO attempt (id, attempt_of, key_number, endpoint, model, upstream_id, state, usage_source,
                is_recovered, is_priced, bound, input_cost, cached_input_cost, cache_write_cost, output_cost,
                drained_output_cost, request_cost, tool_cost, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
                drained_output_tokens, clamped_to, flags, reported_usage, created_at, resolved_at, price_version,
                label_set)
             VALUES ($1, $2, $3, $4, $5, $6, 'held', NULL, $7, $8, $9, $10, 0, 0, $11, 0, $12, $13, $14, 0, 0, $15, 0,
                $16, NULL, NULL, $17, NULL, $18, $19)",
            sets,
        )
        .await?;
        let mut labels: Vec<&LabelSet> =
            holds.iter().filter_map(|held| held.attempt.labels.as_deref()).collect();
        labels.sort_unstable_by_key(|labels| labels.number);
        labels.dedup();
        let labels = labels.into_iter().map(|labels| params![labels.number, labels.text.clone()]);
        self.execute_each(
            "INSERT INTO label_set (number, labels) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            labels,
        )
        .await?;
        Ok(())
    }

    async fn budget(&mut self, limit: &Arc<Limit>, period: Period) -> Result<Option<Budget>> {
        spend_limit::stored_budget(self, limit, period).await
    }

    async fn open(&mut self, limit: &Arc<Limit>, period: Period) -> Result<Budget> {
        spend_limit::open(self, limit, period).await
    }

    async fn store(&mut self, budget: &Budget) -> Result<()> {
        spend_limit::store(self, budget).await
    }

    async fn add(&mut self, rollups: Rollups) -> Result<()> {
        rollups.write(self).await
    }

    async fn exceeded(&mut self, model: &str, excess: &Excess, now: Timestamp) -> Result<()> {
        macro_rules! worst {
            ($column:literal) => {
                concat!(
                    $column,
                    " = CASE WHEN excluded.",
                    $column,
                    " > bound_violation.",
                    $column,
                    " THEN excluded.",
                    $column,
                    " ELSE bound_violation.",
                    $column,
                    " END, ",
                )
            };
        }
        const SQL: &str = concat!(
            "INSERT INTO bound_violation (model, violations, excess, input_ppm, input_tokens, input_seen, output_ppm,
                output_tokens, output_seen, last_at)
             VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (model) DO UPDATE SET violations = bound_violation.violations + 1,
                excess = bound_violation.excess + excluded.excess, ",
            worst!("input_ppm"),
            worst!("input_tokens"),
            worst!("input_seen"),
            worst!("output_ppm"),
            worst!("output_tokens"),
            worst!("output_seen"),
            "last_at = excluded.last_at",
        );
        let Excess { input, output, cost } = *excess;
        self.execute(
            SQL,
            &params![
                model.to_owned(),
                cost,
                input.ppm,
                input.tokens,
                input.seen,
                output.ppm,
                output.tokens,
                output.seen,
                now
            ],
        )
        .await?;
        self.log_change(None, Entity::Model, model).await
    }
}
