//! Sums of settled attempts by hour and by day, kept in the transaction that settles them: of each key, of each project and
//! of each organization.

use foldhash::HashMap;
use std::sync::{Arc, LazyLock};

#[cfg(test)]
use tollgate_core::Money;
use tollgate_core::budget::Payer;
use tollgate_core::price::{Tier, TokenUsage};
use tollgate_core::{OrganizationId, ProjectId, Result, Timestamp, UpstreamId};
use tollgate_store::{ToValue, Tx, Value};

use crate::attempt::{Attempt, Endpoint};
use crate::sums::Sums;

pub(crate) const HOUR: i64 = 3_600;
pub(crate) const DAY: i64 = 86_400;

/// All that was spent, of a row of `attempt` or, without its adjustments, of a rollup.
pub(crate) const COST: &str = "(input_cost + cached_input_cost + cache_write_cost + output_cost + drained_output_cost \
    + request_cost + tool_cost)";

const KEY_VALUES: usize = 3 + 5 + Sums::COUNT;
const TOTAL_VALUES: usize = KEY_VALUES + 1;

/// What is counted together, whoever it was for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: Arc<str>,
    pub(crate) upstream: UpstreamId,
    pub(crate) tier: Tier,
    /// The number of its set of labels; 0 for none.
    pub(crate) label_set: i64,
}

impl Line {
    pub(crate) fn of(attempt: &Attempt, usage: TokenUsage) -> Self {
        Self {
            endpoint: attempt.endpoint,
            model: Arc::clone(&attempt.model),
            upstream: attempt.upstream,
            tier: usage.tier(),
            label_set: attempt.label_set(),
        }
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
            *self.keys.entry((key_number, line.clone(), width, start)).or_default() += *sums;
            for of in [(organization, Some(project)), (organization, None)] {
                let line = match of.1 {
                    Some(_) => line.clone(),
                    // As many labels as projects have there would be in the sums of all of them.
                    None => Line { label_set: 0, ..line.clone() },
                };
                *self.totals.entry((of, line, width, start)).or_default() += *sums;
            }
        }
    }

    /// What is added to each key's buckets of a width, in money.
    #[cfg(test)]
    pub(crate) fn costs(self, width: i64) -> impl Iterator<Item = (i64, Timestamp, Money)> {
        let of_width = self.keys.into_iter().filter(move |((_, _, other, _), _)| *other == width);
        of_width.map(|((key, _, _, at), sums)| (key, at, sums.cost()))
    }

    pub(crate) async fn write(self, tx: &mut Tx) -> Result<()> {
        let keys = self.keys.into_iter().map(|((key, line, width, start), sums)| {
            row::<KEY_VALUES>([key.to_value(), width.to_value(), start.to_value()], &line, &sums)
        });
        tx.execute_each(ADD_TO_KEY.as_str(), keys).await?;
        let totals = self.totals.into_iter().map(|(((organization, project), line, width, start), sums)| {
            let project = project.map_or_else(|| Value::Text(String::new()), |project| project.to_value());
            let of = [organization.to_value(), width.to_value(), start.to_value(), project];
            row::<TOTAL_VALUES>(of, &line, &sums)
        });
        tx.execute_each(ADD_TO_TOTAL.as_str(), totals).await?;
        Ok(())
    }
}

fn row<const COUNT: usize>(of: impl IntoIterator<Item = Value>, line: &Line, sums: &Sums) -> [Value; COUNT] {
    let Line { endpoint, model, upstream, tier, label_set } = line;
    let line = [
        endpoint.as_str().to_value(),
        model.to_value(),
        upstream.to_value(),
        tier.as_str().to_value(),
        label_set.to_value(),
    ];
    let mut values = of.into_iter().chain(line).chain(sums.values());
    std::array::from_fn(|_| values.next().unwrap_or(Value::Null))
}

/// How the sums of a row are added to those that are there.
fn upsert(table: &str, of: &str, places: usize) -> String {
    let places: Vec<String> = (1..=places).map(|place| format!("${place}")).collect();
    let line = format!("{of}, endpoint, model, upstream_id, service_tier, label_set");
    format!(
        "INSERT INTO {table} AS r ({line}{}) VALUES ({})
         ON CONFLICT ({line}) DO UPDATE SET {}",
        Sums::COLUMNS,
        places.join(", "),
        // No column of a key: a row whose key is set is deleted, and inserted again in each index.
        Sums::ADDED.trim_start_matches(", ")
    )
}

static ADD_TO_KEY: LazyLock<String> =
    LazyLock::new(|| upsert("usage_rollup", "key_number, width, bucket_start", KEY_VALUES));
static ADD_TO_TOTAL: LazyLock<String> =
    LazyLock::new(|| upsert("usage_total", "organization_id, width, bucket_start, project_id", TOTAL_VALUES));
