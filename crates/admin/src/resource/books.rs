//! The books as an operator looks at them: whether they balance, and what each upstream was used for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::id::kind;
use tollgate_core::{Error, Money, Result};
use tollgate_ledger::usage::{self, Dimension, Group, Query, Width};
use tollgate_store::{Row, params};

use crate::arguments::PathId;
use crate::gate::Cx;
use crate::operation::Access::Operator;
use crate::operation::Operations;
use crate::resource::usage::{Buckets, Span, When};

pub(crate) fn operations() -> Operations {
    Operations::new()
        .get("/tollgate/v1/fsck", "check-books", Operator, check)
        .after_settling()
        .reading_long()
        .get("/tollgate/v1/upstreams/{upstream_id}/costs", "upstream-costs", Operator, costs)
        .after_settling()
        .reading_long()
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Checked {
    object: &'static str,
    is_balanced: bool,
    attempts: i64,
    open_holds: i64,
    budgets: i64,
    /// Decimal dollars.
    settled: Money,
    faults: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

async fn check(cx: &mut Cx, _: Nothing) -> Result<Checked> {
    let report = tollgate_ledger::fsck::check_in(&mut cx.tx).await?;
    Ok(Checked {
        object: "tollgate.fsck",
        is_balanced: report.is_balanced(),
        attempts: report.attempts,
        open_holds: report.open_holds,
        budgets: report.budgets,
        settled: report.settled,
        faults: report.faults,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CostsQuery {
    upstream_id: PathId<kind::Upstream>,
    start_time: i64,
    end_time: Option<i64>,
    limit: Option<i64>,
    page: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct UpstreamCost {
    object: &'static str,
    model: Option<String>,
    requests: i64,
    /// Decimal dollars.
    cost: Money,
    input_tokens: i64,
    output_tokens: i64,
}

/// What was spent at an upstream by day and model, over all organizations.
async fn costs(cx: &mut Cx, input: CostsQuery) -> Result<Buckets<UpstreamCost>> {
    let upstream = input.upstream_id.id()?;
    let known: Option<Row> =
        cx.tx.optional("SELECT id FROM upstream WHERE id = $1", &params![upstream]).await?;
    known.ok_or_else(|| Error::not_found("upstream"))?;
    let when = When {
        start_time: input.start_time,
        end_time: input.end_time,
        width: Width::Day,
        limit: input.limit,
        limits: (1, 180, 7),
        page: input.page.as_deref(),
        rest: upstream.to_string(),
    };
    let span = Span::of(&when, cx.now)?;
    let query = Query {
        organization: None,
        endpoint: None,
        width: span.width,
        start: span.start(),
        end: span.page_end(),
        group_by: vec![Dimension::Model],
        labels: Vec::new(),
        filters: vec![(Dimension::Upstream, vec![upstream.to_string()])],
    };
    let groups = usage::sums(&mut cx.tx, &query).await?;
    Ok(span.page(groups, |group: &Group| {
        let sums = &group.sums;
        vec![UpstreamCost {
            object: "tollgate.upstream.cost",
            model: group.dimension(Dimension::Model).map(str::to_owned),
            requests: sums.requests,
            cost: sums.cost(),
            input_tokens: sums.input_tokens,
            output_tokens: sums.output_tokens,
        }]
    }))
}
