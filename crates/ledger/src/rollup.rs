//! Sums of settled attempts by hour and by day, kept in the transaction that settles them: of each key, of each project and
//! of each organization.

use foldhash::HashMap;
use std::sync::Arc;

use tollgate_core::budget::Payer;
use tollgate_core::price::{Cost, Tier, TokenUsage};
use tollgate_core::{Money, OrganizationId, ProjectId, Result, Timestamp, UpstreamId};
use tollgate_store::{ToValue, Tx, Value};

use crate::attempt::{Attempt, Endpoint};

pub(crate) const HOUR: i64 = 3_600;
pub(crate) const DAY: i64 = 86_400;

/// All that was spent, of a row of `attempt` or, with its adjustments, of a rollup.
pub(crate) const COST: &str =
    "(input_cost + cached_input_cost + cache_write_cost + output_cost + drained_output_cost)";

/// What is counted together, whoever it was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: Arc<str>,
    pub(crate) upstream: UpstreamId,
    pub(crate) tier: Tier,
}

impl Line {
    pub(crate) fn of(attempt: &Attempt, usage: TokenUsage) -> Self {
        Self {
            endpoint: attempt.endpoint,
            model: Arc::clone(&attempt.model),
            upstream: attempt.upstream,
            tier: usage.tier(),
        }
    }
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
    pub(crate) cache_write_1h: i64,
    pub(crate) audio_input: i64,
    pub(crate) output: i64,
    pub(crate) audio_output: i64,
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
            cache_write_1h: count(usage.cache_write_1h()),
            audio_input: count(usage.audio_input()),
            output: count(usage.output),
            audio_output: count(usage.audio_output()),
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
        self.cache_write_1h += other.cache_write_1h;
        self.audio_input += other.audio_input;
        self.output += other.output;
        self.audio_output += other.audio_output;
        self.drained_output += other.drained_output;
    }

    /// In the order of the columns of both tables.
    fn values(&self) -> [Value; 16] {
        [
            self.requests.to_value(),
            self.clamped.to_value(),
            self.cost.input.to_value(),
            self.cost.cached_input.to_value(),
            self.cost.cache_write.to_value(),
            self.cost.output.to_value(),
            self.cost.drained_output.to_value(),
            self.adjusted.to_value(),
            self.input.to_value(),
            self.cached_input.to_value(),
            self.cache_write.to_value(),
            self.cache_write_1h.to_value(),
            self.audio_input.to_value(),
            self.output.to_value(),
            self.audio_output.to_value(),
            self.drained_output.to_value(),
        ]
    }
}

type Buckets<Of> = HashMap<(Of, Line, i64, Timestamp), Sums>;

/// What a batch adds to the rollups, each row once.
#[derive(Debug, Default)]
pub(crate) struct Rollups {
    keys: Buckets<i64>,
    /// Of projects, and of organizations without one.
    totals: Buckets<(OrganizationId, Option<ProjectId>)>,
}

impl Rollups {
    /// Adds to the buckets of the moment when the attempt was admitted.
    pub(crate) fn add(
        &mut self,
        (payer, key_number): (&Payer, i64),
        line: &Line,
        at: Timestamp,
        sums: &Sums,
    ) {
        let Payer { organization, project, .. } = *payer;
        for width in [HOUR, DAY] {
            let start = at.floor_to(width);
            self.keys.entry((key_number, line.clone(), width, start)).or_default().add(sums);
            for of in [(organization, Some(project)), (organization, None)] {
                self.totals.entry((of, line.clone(), width, start)).or_default().add(sums);
            }
        }
    }

    /// What is added to each key's buckets of a width, in money.
    #[cfg(test)]
    pub(crate) fn costs(self, width: i64) -> impl Iterator<Item = (i64, Timestamp, Money)> {
        let of_width = self.keys.into_iter().filter(move |((_, _, other, _), _)| *other == width);
        of_width.map(|((key, _, _, at), sums)| (key, at, sums.cost.total() + sums.adjusted))
    }

    pub(crate) async fn write(self, tx: &mut Tx) -> Result<()> {
        let keys = self.keys.into_iter().map(|((key, line, width, start), sums)| {
            row::<23>([key.to_value(), width.to_value(), start.to_value()], &line, &sums)
        });
        tx.execute_each(ADD_TO_KEY, keys).await?;
        let totals = self.totals.into_iter().map(|(((organization, project), line, width, start), sums)| {
            let project = project.map_or_else(|| Value::Text(String::new()), |project| project.to_value());
            let of = [organization.to_value(), width.to_value(), start.to_value(), project];
            row::<24>(of, &line, &sums)
        });
        tx.execute_each(ADD_TO_TOTAL, totals).await?;
        Ok(())
    }
}

fn row<const COUNT: usize>(of: impl IntoIterator<Item = Value>, line: &Line, sums: &Sums) -> [Value; COUNT] {
    let Line { endpoint, model, upstream, tier } = line;
    let line =
        [endpoint.as_str().to_value(), model.to_value(), upstream.to_value(), tier.as_str().to_value()];
    let mut values = of.into_iter().chain(line).chain(sums.values());
    std::array::from_fn(|_| values.next().unwrap_or(Value::Null))
}

macro_rules! upsert {
    ($table:literal, $of:literal, $places:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " AS r (",
            $of,
            ", endpoint, model, upstream_id, service_tier, requests, clamped_requests, input_cost, cached_input_cost,
                cache_write_cost, output_cost, drained_output_cost, adjusted_cost, input_tokens, cached_input_tokens,
                cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, output_tokens, audio_output_tokens,
                drained_output_tokens)
             VALUES (",
            $places,
            ") ON CONFLICT (",
            $of,
            ", endpoint, model, upstream_id, service_tier)
             DO UPDATE SET requests = r.requests + excluded.requests,
                clamped_requests = r.clamped_requests + excluded.clamped_requests,
                input_cost = r.input_cost + excluded.input_cost,
                cached_input_cost = r.cached_input_cost + excluded.cached_input_cost,
                cache_write_cost = r.cache_write_cost + excluded.cache_write_cost,
                output_cost = r.output_cost + excluded.output_cost,
                drained_output_cost = r.drained_output_cost + excluded.drained_output_cost,
                adjusted_cost = r.adjusted_cost + excluded.adjusted_cost,
                input_tokens = r.input_tokens + excluded.input_tokens,
                cached_input_tokens = r.cached_input_tokens + excluded.cached_input_tokens,
                cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
                cache_write_1h_tokens = r.cache_write_1h_tokens + excluded.cache_write_1h_tokens,
                audio_input_tokens = r.audio_input_tokens + excluded.audio_input_tokens,
                output_tokens = r.output_tokens + excluded.output_tokens,
                audio_output_tokens = r.audio_output_tokens + excluded.audio_output_tokens,
                drained_output_tokens = r.drained_output_tokens + excluded.drained_output_tokens"
        )
    };
}

const ADD_TO_KEY: &str = upsert!(
    "usage_rollup",
    "key_number, width, bucket_start",
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23"
);
const ADD_TO_TOTAL: &str = upsert!(
    "usage_total",
    "organization_id, width, bucket_start, project_id",
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24"
);
