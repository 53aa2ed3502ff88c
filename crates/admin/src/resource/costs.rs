//! Costs by day, and as an extension by hour and minute. A line item is a model and a kind of token, or what its requests cost beside tokens: `gpt-4o-mini, input_tokens`.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_core::{Error, Money, Result};
use tollgate_ledger::usage::{self, Dimension, Group, Sums, Width};

use crate::gate::Cx;
use crate::operation::Operations;
use crate::resource::usage::{
    ACCESS, Asked, Buckets, By, ByCost, CostsQuery, LabelValues, Span, labelled, question,
};

pub(crate) fn operations() -> Operations {
    Operations::new()
        .get("/v1/organization/costs", "usage-costs", ACCESS, costs)
        .after_settling()
        .reading_long()
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CostResult {
    object: &'static str,
    amount: Amount,
    line_item: Option<String>,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    api_source: Option<&'static str>,
    /// Extension.
    model: Option<String>,
    /// Extension.
    upstream_id: Option<String>,
    /// Extension: of the labels that are grouped by.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelValues>,
    quantity: Option<i64>,
    quantity_unit: Option<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Amount {
    /// Dollars as a JSON number, to the nano-dollar.
    #[schemars(with = "f64")]
    value: Box<RawValue>,
    currency: &'static str,
}

impl Amount {
    fn new(money: Money) -> Self {
        let text = money.to_string();
        let text = text.trim_end_matches('0').trim_end_matches('.');
        let text = if text.is_empty() { "0" } else { text };
        let value = RawValue::from_string(text.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { value, currency: "usd" }
    }
}

async fn costs(cx: &mut Cx, input: CostsQuery) -> Result<Buckets<CostResult>> {
    let mut when = input.when();
    if when.width == Width::Day {
        // More than of usage.
        when.limits = (1, 180, 7);
    }
    let span = Span::of(&when, cx.now)?;
    let wanted = LineItems::read(&input.line_items)?;
    let is_by = |by: ByCost| input.group_by.contains(&By::Dimension(by));
    let (by_line_item, by_model) = (is_by(ByCost::LineItem), is_by(ByCost::Model));
    let query = question(cx, &span, None, &input, vec![(Dimension::Model, wanted.models())]);
    // A filter by line item needs the model of each sum, whether or not it is shown.
    let query = if wanted.is_any() { query } else { query.with(Dimension::Model) };
    let groups = usage::sums(&mut cx.tx, &query).await?;
    let shown = Shown { labels: input.labels(), api_source: is_by(ByCost::ApiSource).then_some("unlabeled") };
    if by_line_item {
        return Ok(span.page(groups, |group| line_items(group, &wanted, by_model, &shown)));
    }
    let groups = match (wanted.is_any(), by_model) {
        (true, _) => groups,
        (false, true) => usage::narrowed(groups, |group| wanted.narrow(group)),
        (false, false) => usage::merge(groups, Dimension::Model, |group| wanted.narrow(group)),
    };
    Ok(span.page(groups, |group| vec![shown.result(group, group.sums.cost())]))
}

/// What of a group is shown beside its sums.
struct Shown {
    labels: Vec<String>,
    api_source: Option<&'static str>,
}

impl Shown {
    fn result(&self, group: &Group, cost: Money) -> CostResult {
        let owned = |dimension| group.dimension(dimension).map(str::to_owned);
        CostResult {
            object: "organization.costs.result",
            amount: Amount::new(cost),
            line_item: None,
            project_id: owned(Dimension::Project),
            user_id: owned(Dimension::Owner),
            api_key_id: owned(Dimension::Key),
            api_source: self.api_source,
            model: owned(Dimension::Model),
            upstream_id: owned(Dimension::Upstream),
            labels: labelled(group, &self.labels),
            quantity: None,
            quantity_unit: None,
        }
    }
}

/// The kinds of tokens of a sum: what each is called, how many they are and what they cost.
fn components(sums: &Sums) -> [(&'static str, i64, Money); 8] {
    [
        ("input_tokens", sums.uncached_input_tokens(), sums.input_cost),
        ("cached_input_tokens", sums.cached_input_tokens, sums.cached_input_cost),
        ("cache_write_tokens", sums.cache_write_tokens, sums.cache_write_cost),
        ("output_tokens", sums.output_tokens - sums.drained_output_tokens, sums.output_cost),
        ("drained_output_tokens", sums.drained_output_tokens, sums.drained_output_cost),
        ("requests", if sums.request_cost == Money::ZERO { 0 } else { sums.requests }, sums.request_cost),
        ("web_search_calls", sums.web_search_calls, sums.tool_cost),
        ("adjustments", 0, sums.adjusted_cost),
    ]
}

fn line_items(group: &Group, wanted: &LineItems, by_model: bool, shown: &Shown) -> Vec<CostResult> {
    let model = group.dimension(Dimension::Model).unwrap_or("");
    let items = components(&group.sums)
        .into_iter()
        .filter(|(kind, quantity, cost)| (*quantity != 0 || *cost != Money::ZERO) && wanted.has(model, kind));
    let unit = |kind: &str| match kind {
        "adjustments" => None,
        "requests" => Some("requests"),
        "web_search_calls" => Some("calls"),
        _ => Some("tokens"),
    };
    items
        .map(|(kind, quantity, cost)| CostResult {
            line_item: Some(format!("{model}, {kind}")),
            // Of what is charged at its bound nobody has counted the searches.
            quantity: unit(kind).map(|_| quantity).filter(|quantity| *quantity != 0),
            quantity_unit: unit(kind),
            model: by_model.then(|| model.to_owned()),
            ..shown.result(group, cost)
        })
        .collect()
}

/// The line items a query asks for; none means all.
struct LineItems(Vec<(String, String)>);

impl LineItems {
    fn read(texts: &[String]) -> Result<Self> {
        let read = |text: &String| {
            text.rsplit_once(", ").map(|(model, kind)| (model.to_owned(), kind.to_owned())).ok_or_else(|| {
                Error::invalid(
                    "line_items",
                    format!("Invalid 'line_items': `{text}` is not like 'MODEL, input_tokens'."),
                )
            })
        };
        texts.iter().map(read).collect::<Result<_>>().map(Self)
    }

    fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    fn models(&self) -> Vec<String> {
        self.0.iter().map(|(model, _)| model.clone()).collect()
    }

    fn has(&self, model: &str, kind: &str) -> bool {
        self.is_any() || self.0.iter().any(|(m, k)| m == model && k == kind)
    }

    /// A sum with only the costs that were asked for.
    fn narrow(&self, group: &Group) -> Sums {
        let model = group.dimension(Dimension::Model).unwrap_or("");
        let keep = |kind: &str, cost: Money| if self.has(model, kind) { cost } else { Money::ZERO };
        let sums = group.sums;
        Sums {
            input_cost: keep("input_tokens", sums.input_cost),
            cached_input_cost: keep("cached_input_tokens", sums.cached_input_cost),
            cache_write_cost: keep("cache_write_tokens", sums.cache_write_cost),
            output_cost: keep("output_tokens", sums.output_cost),
            drained_output_cost: keep("drained_output_tokens", sums.drained_output_cost),
            request_cost: keep("requests", sums.request_cost),
            tool_cost: keep("web_search_calls", sums.tool_cost),
            adjusted_cost: keep("adjustments", sums.adjusted_cost),
            ..sums
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_number_to_the_nano_dollar() {
        for (nanos, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_500_000_000, "1.5"),
            (20_000_000_000, "20"),
            (-5, "-0.000000005"),
        ] {
            assert_eq!(
                serde_json::to_string(&Amount::new(Money(nanos))).unwrap(),
                format!("{{\"value\":{text},\"currency\":\"usd\"}}")
            );
        }
    }
}
