//! Usage and costs of all kinds of requests together, by whatever they differ in: what exports are made of.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;
use tollgate_core::{Money, Permission, Result};
use tollgate_ledger::usage::{self, Dimension, Group};
use tollgate_store::{Row, Sql, ToValue};

use super::query::{AllQuery, Asked};
use super::result::{LabelValues, labelled, owned};
use super::{ACCESS, Buckets, Span, question};
use crate::gate::Cx;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    Operations::new().get("/tollgate/v1/usage", "usage-all", ACCESS, all).after_settling().reading_long()
}

/// Costs in decimal dollars. Those of the kinds of tokens and the adjustments add up to `cost`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct UsageResult {
    object: &'static str,
    project_id: Option<String>,
    project_name: Option<String>,
    /// The user or service account that owns the key.
    user_id: Option<String>,
    /// The e-mail address of a user, the name of a service account.
    user_name: Option<String>,
    api_key_id: Option<String>,
    api_key_name: Option<String>,
    model: Option<String>,
    upstream_id: Option<String>,
    service_tier: Option<String>,
    endpoint: Option<String>,
    /// Of the labels that are grouped by.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelValues>,
    num_requests: i64,
    num_clamped_requests: i64,
    input_tokens: i64,
    cached_input_tokens: i64,
    cache_write_tokens: i64,
    cache_write_1h_tokens: i64,
    audio_input_tokens: i64,
    image_input_tokens: i64,
    output_tokens: i64,
    audio_output_tokens: i64,
    image_output_tokens: i64,
    drained_output_tokens: i64,
    web_search_calls: i64,
    /// Of input that was neither read from the cache nor written to it.
    input_cost: Money,
    cached_input_cost: Money,
    cache_write_cost: Money,
    /// Of output that somebody was there to read.
    output_cost: Money,
    drained_output_cost: Money,
    /// Of requests beside their tokens.
    request_cost: Money,
    /// Of tools that providers ran.
    tool_cost: Money,
    /// Corrections and refunds.
    adjusted_cost: Money,
    cost: Money,
}

async fn all(cx: &mut Cx, input: AllQuery) -> Result<Buckets<UsageResult>> {
    let span = Span::of(&input.when(), cx.now)?;
    let query = question(cx, &span, None, &input, Vec::new());
    let groups = usage::sums(&mut cx.tx, &query).await?;
    let names = Names::of(cx, &groups).await?;
    let labels = input.labels();
    Ok(span.page(groups, |group| vec![UsageResult::of(group, &names, &labels)]))
}

/// What people call what was grouped by, by its id. Whatever is gone has its name still.
struct Names(BTreeMap<String, String>);

impl Names {
    async fn of(cx: &mut Cx, groups: &[Group]) -> Result<Self> {
        const AT_ONCE: usize = 500;
        const NAMED: [(Dimension, &str); 4] = [
            (Dimension::Project, "SELECT id, name FROM project WHERE id IN "),
            (Dimension::Key, "SELECT id, name FROM api_key WHERE id IN "),
            (Dimension::Owner, "SELECT id, email FROM app_user WHERE id IN "),
            (Dimension::Owner, "SELECT id, name FROM service_account WHERE id IN "),
        ];
        let mut names = BTreeMap::new();
        for (dimension, sql) in NAMED {
            // Names are told to whoever could read them where they stand.
            let may_see = match dimension {
                Dimension::Owner => cx.actor.may(Permission::UsersRead),
                Dimension::Key => cx.actor.holds(Permission::ProjectApiKeysRead),
                _ => true,
            };
            if !may_see {
                continue;
            }
            let ids: BTreeSet<&str> = groups.iter().filter_map(|group| group.dimension(dimension)).collect();
            let ids: Vec<&str> = ids.into_iter().collect();
            for some in ids.chunks(AT_ONCE) {
                let mut values = Vec::new();
                let sql = Sql::from(sql).push_list(&mut values, some.iter().map(ToValue::to_value));
                let rows: Vec<Row> = cx.tx.all(sql, &values).await?;
                for row in rows {
                    names.insert(row.at(0)?, row.at(1)?);
                }
            }
        }
        Ok(Self(names))
    }

    fn get(&self, id: Option<&str>) -> Option<String> {
        id.and_then(|id| self.0.get(id)).cloned()
    }
}

impl UsageResult {
    fn of(group: &Group, names: &Names, labels: &[String]) -> Self {
        let sums = &group.sums;
        let name = |dimension| names.get(group.dimension(dimension));
        Self {
            object: "tollgate.usage.result",
            project_id: owned(group, Dimension::Project),
            project_name: name(Dimension::Project),
            user_id: owned(group, Dimension::Owner),
            user_name: name(Dimension::Owner),
            api_key_id: owned(group, Dimension::Key),
            api_key_name: name(Dimension::Key),
            model: owned(group, Dimension::Model),
            upstream_id: owned(group, Dimension::Upstream),
            service_tier: owned(group, Dimension::ServiceTier),
            endpoint: owned(group, Dimension::Endpoint),
            labels: labelled(group, labels),
            num_requests: sums.requests,
            num_clamped_requests: sums.clamped_requests,
            input_tokens: sums.input_tokens,
            cached_input_tokens: sums.cached_input_tokens,
            cache_write_tokens: sums.cache_write_tokens,
            cache_write_1h_tokens: sums.cache_write_1h_tokens,
            audio_input_tokens: sums.audio_input_tokens,
            image_input_tokens: sums.image_input_tokens,
            output_tokens: sums.output_tokens,
            audio_output_tokens: sums.audio_output_tokens,
            image_output_tokens: sums.image_output_tokens,
            drained_output_tokens: sums.drained_output_tokens,
            web_search_calls: sums.web_search_calls,
            input_cost: sums.input_cost,
            cached_input_cost: sums.cached_input_cost,
            cache_write_cost: sums.cache_write_cost,
            output_cost: sums.output_cost,
            drained_output_cost: sums.drained_output_cost,
            request_cost: sums.request_cost,
            tool_cost: sums.tool_cost,
            adjusted_cost: sums.adjusted_cost,
            cost: sums.cost(),
        }
    }
}
