//! Sums of settled attempts by hour and by day, kept in the transaction that settles them.

use std::collections::HashMap;

use tollgate_core::price::{Cost, TokenUsage};
use tollgate_core::{KeyId, OrganizationId, Principal, ProjectId, Result, Timestamp};
use tollgate_store::{Tx, params};

use crate::attempt::{Attempt, Endpoint};

pub(crate) const HOUR: i64 = 3_600;
pub(crate) const DAY: i64 = 86_400;

#[derive(PartialEq, Eq, Hash)]
struct RollupKey {
    width: i64,
    bucket_start: Timestamp,
    organization: OrganizationId,
    project: ProjectId,
    key: KeyId,
    owner: Principal,
    endpoint: Endpoint,
    model: String,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    requests: u64,
    usage: TokenUsage,
    cost: Cost,
}

/// What a batch adds to the rollups, each row once.
#[derive(Default)]
pub(crate) struct Rollups(HashMap<RollupKey, Sums>);

impl Rollups {
    pub(crate) fn add(&mut self, attempt: &Attempt, usage: TokenUsage, cost: Cost) {
        for width in [HOUR, DAY] {
            let key = RollupKey {
                width,
                bucket_start: attempt.created_at().floor_to(width),
                organization: attempt.organization,
                project: attempt.project,
                key: attempt.key,
                owner: attempt.owner,
                endpoint: attempt.endpoint,
                model: attempt.model.clone(),
            };
            let sums = self.0.entry(key).or_default();
            sums.requests += 1;
            sums.usage.input = sums.usage.input.saturating_add(usage.input);
            sums.usage.cached_input = sums.usage.cached_input.saturating_add(usage.cached_input());
            sums.usage.cache_write = sums.usage.cache_write.saturating_add(usage.cache_write());
            sums.usage.output = sums.usage.output.saturating_add(usage.output);
            sums.cost.input += cost.input;
            sums.cost.cached_input += cost.cached_input;
            sums.cost.cache_write += cost.cache_write;
            sums.cost.output += cost.output;
        }
    }

    pub(crate) async fn write(self, tx: &mut Tx) -> Result<()> {
        for (key, sums) in self.0 {
            tx.execute(
                "INSERT INTO usage_rollup (width, bucket_start, organization_id, project_id, api_key_id, owner_id,
                    endpoint, model, requests, cost, input_cost, cached_input_cost, cache_write_cost, output_cost,
                    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
                 ON CONFLICT (width, organization_id, bucket_start, project_id, api_key_id, owner_id, endpoint, model)
                 DO UPDATE SET requests = usage_rollup.requests + excluded.requests,
                    cost = usage_rollup.cost + excluded.cost,
                    input_cost = usage_rollup.input_cost + excluded.input_cost,
                    cached_input_cost = usage_rollup.cached_input_cost + excluded.cached_input_cost,
                    cache_write_cost = usage_rollup.cache_write_cost + excluded.cache_write_cost,
                    output_cost = usage_rollup.output_cost + excluded.output_cost,
                    input_tokens = usage_rollup.input_tokens + excluded.input_tokens,
                    cached_input_tokens = usage_rollup.cached_input_tokens + excluded.cached_input_tokens,
                    cache_write_tokens = usage_rollup.cache_write_tokens + excluded.cache_write_tokens,
                    output_tokens = usage_rollup.output_tokens + excluded.output_tokens",
                &params![
                    key.width,
                    key.bucket_start,
                    key.organization,
                    key.project,
                    key.key,
                    key.owner,
                    key.endpoint.as_str(),
                    key.model,
                    sums.requests,
                    sums.cost.total(),
                    sums.cost.input,
                    sums.cost.cached_input,
                    sums.cost.cache_write,
                    sums.cost.output,
                    sums.usage.input,
                    sums.usage.cached_input,
                    sums.usage.cache_write,
                    sums.usage.output,
                ],
            )
            .await?;
        }
        Ok(())
    }
}
