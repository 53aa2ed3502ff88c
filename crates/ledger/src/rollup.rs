//! Sums of settled attempts by hour and by day, kept in the transaction that settles them.

use foldhash::HashMap;
use std::sync::Arc;

use tollgate_core::price::{Cost, TokenUsage};
use tollgate_core::{Money, Result, Timestamp, UpstreamId};
use tollgate_store::{Tx, params};

use crate::attempt::Endpoint;

pub(crate) const HOUR: i64 = 3_600;
pub(crate) const DAY: i64 = 86_400;

/// All that was spent, of a row of `attempt` or, with its adjustments, of `usage_rollup`.
pub(crate) const COST: &str =
    "(input_cost + cached_input_cost + cache_write_cost + output_cost + drained_output_cost)";

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    pub(crate) key_number: i64,
    pub(crate) endpoint: Endpoint,
    pub(crate) model: Arc<str>,
    pub(crate) upstream: UpstreamId,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) requests: i64,
    pub(crate) clamped: i64,
    pub(crate) cost: Cost,
    pub(crate) adjusted: Money,
    pub(crate) input: i64,
    pub(crate) cached_input: i64,
    pub(crate) cache_write: i64,
    pub(crate) output: i64,
    pub(crate) drained_output: i64,
}

impl Sums {
    pub(crate) fn of(usage: TokenUsage, cost: Cost, is_clamped: bool) -> Self {
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        Self {
            requests: 1,
            clamped: i64::from(is_clamped),
            cost,
            adjusted: Money::ZERO,
            input: count(usage.input),
            cached_input: count(usage.cached_input()),
            cache_write: count(usage.cache_write()),
            output: count(usage.output),
            drained_output: count(usage.drained_output()),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.clamped += other.clamped;
        self.cost.input += other.cost.input;
        self.cost.cached_input += other.cost.cached_input;
        self.cost.cache_write += other.cost.cache_write;
        self.cost.output += other.cost.output;
        self.cost.drained_output += other.cost.drained_output;
        self.adjusted += other.adjusted;
        self.input += other.input;
        self.cached_input += other.cached_input;
        self.cache_write += other.cache_write;
        self.output += other.output;
        self.drained_output += other.drained_output;
    }
}

/// What a batch adds to the rollups, each row once.
#[derive(Debug, Default)]
pub(crate) struct Rollups(HashMap<(Line, i64, Timestamp), Sums>);

impl Rollups {
    /// Adds to the buckets of the moment when the attempt was admitted.
    pub(crate) fn add(&mut self, line: &Line, at: Timestamp, sums: &Sums) {
        for width in [HOUR, DAY] {
            self.0.entry((line.clone(), width, at.floor_to(width))).or_default().add(sums);
        }
    }

    /// What is added to each key's buckets of a width, in money.
    #[cfg(test)]
    pub(crate) fn costs(self, width: i64) -> impl Iterator<Item = (i64, Timestamp, Money)> {
        let of_width = self.0.into_iter().filter(move |((_, other, _), _)| *other == width);
        of_width.map(|((line, _, at), sums)| (line.key_number, at, sums.cost.total() + sums.adjusted))
    }

    pub(crate) async fn write(self, tx: &mut Tx) -> Result<()> {
        for ((line, width, bucket_start), sums) in self.0 {
            tx.execute(
                UPSERT,
                &params![
                    line.key_number,
                    width,
                    bucket_start,
                    line.endpoint.as_str(),
                    line.model,
                    line.upstream,
                    sums.requests,
                    sums.clamped,
                    sums.cost.input,
                    sums.cost.cached_input,
                    sums.cost.cache_write,
                    sums.cost.output,
                    sums.cost.drained_output,
                    sums.adjusted,
                    sums.input,
                    sums.cached_input,
                    sums.cache_write,
                    sums.output,
                    sums.drained_output,
                ],
            )
            .await?;
        }
        Ok(())
    }
}

const UPSERT: &str = "INSERT INTO usage_rollup (key_number, width, bucket_start, endpoint, model, upstream_id, requests,
        clamped_requests, input_cost, cached_input_cost, cache_write_cost, output_cost, drained_output_cost,
        adjusted_cost, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, drained_output_tokens)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
     ON CONFLICT (key_number, width, bucket_start, endpoint, model, upstream_id)
     DO UPDATE SET requests = usage_rollup.requests + excluded.requests,
        clamped_requests = usage_rollup.clamped_requests + excluded.clamped_requests,
        input_cost = usage_rollup.input_cost + excluded.input_cost,
        cached_input_cost = usage_rollup.cached_input_cost + excluded.cached_input_cost,
        cache_write_cost = usage_rollup.cache_write_cost + excluded.cache_write_cost,
        output_cost = usage_rollup.output_cost + excluded.output_cost,
        drained_output_cost = usage_rollup.drained_output_cost + excluded.drained_output_cost,
        adjusted_cost = usage_rollup.adjusted_cost + excluded.adjusted_cost,
        input_tokens = usage_rollup.input_tokens + excluded.input_tokens,
        cached_input_tokens = usage_rollup.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = usage_rollup.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = usage_rollup.output_tokens + excluded.output_tokens,
        drained_output_tokens = usage_rollup.drained_output_tokens + excluded.drained_output_tokens";
