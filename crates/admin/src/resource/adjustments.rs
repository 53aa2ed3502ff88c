//! Corrections and refunds of what a request cost: further rows, with who made them and why.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::Page;
use tollgate_core::price::REQUEST_COST_MAX;
use tollgate_core::{AttemptId, Error, Money, Permission, Result};
use tollgate_ledger::adjustment::{self, Adjustment, Change, Kind, Wanted};
use tollgate_ledger::requests;

use crate::arguments::{self, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;

pub(crate) fn operations() -> Operations {
    use Permission::{UsageRead, UsageWrite};
    Operations::new()
        .get("/tollgate/v1/requests/{request_id}/adjustments", "list-adjustments", Needs(UsageRead), list)
        .post(
            "/tollgate/v1/requests/{request_id}/corrections",
            "create-correction",
            Needs(UsageWrite),
            Event::ProjectUpdated,
            correct,
        )
        .after_settling()
        .post(
            "/tollgate/v1/requests/{request_id}/refunds",
            "create-refund",
            Needs(UsageWrite),
            Event::ProjectUpdated,
            refund,
        )
        .after_settling()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfRequest {
    request_id: PathId<kind::Attempt>,
}

/// All of them, oldest first.
async fn list(cx: &mut Cx, input: OfRequest) -> Result<Page<Adjustment>> {
    let request = find(cx, input.request_id.id()?).await?.id;
    let rows = adjustment::of(&mut cx.tx, request).await?;
    Ok(Page::with_more(rows, false, |adjustment| adjustment.id.to_string()))
}

async fn find(cx: &mut Cx, id: AttemptId) -> Result<requests::Request> {
    let found = requests::find(&mut cx.tx, cx.actor.organization, id).await?;
    found.ok_or_else(|| Error::not_found("request"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Correct {
    request_id: PathId<kind::Attempt>,
    /// What it really cost, in decimal dollars.
    cost: String,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    reason: String,
}

async fn correct(cx: &mut Cx, input: Correct) -> Result<Adjustment> {
    let change = Change::To {
        cost: read_money("cost", &input.cost)?,
        input_tokens: input.input_tokens.map(|tokens| read_tokens("input_tokens", tokens)).transpose()?,
        output_tokens: input.output_tokens.map(|tokens| read_tokens("output_tokens", tokens)).transpose()?,
    };
    adjust(cx, input.request_id.id()?, Kind::Correction, change, &input.reason).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refund {
    request_id: PathId<kind::Attempt>,
    /// What is given back, in decimal dollars; at most what it has cost.
    amount: String,
    reason: String,
}

async fn refund(cx: &mut Cx, input: Refund) -> Result<Adjustment> {
    let amount = read_money("amount", &input.amount)?;
    if amount == Money::ZERO {
        return Err(Error::invalid("amount", "Invalid 'amount': nothing would be given back."));
    }
    adjust(cx, input.request_id.id()?, Kind::Refund, Change::Less(amount), &input.reason).await
}

async fn adjust(
    cx: &mut Cx,
    request: AttemptId,
    kind: Kind,
    change: Change,
    reason: &str,
) -> Result<Adjustment> {
    let reason = arguments::text("reason", reason, 500)?;
    let project = find(cx, request).await?.project_id;
    let wanted = Wanted { kind, change, reason, by: Some(cx.actor.owner.to_string()) };
    let (organization, clock) = (cx.actor.organization, cx.desk.clock.clone());
    let made = adjustment::adjust(&mut cx.tx, &clock, organization, request, &wanted).await?;
    // OpenAI has no event for this: it is told as a change of the project that paid.
    let payload = json!({"id": project, "changes_requested": {"adjustment": made}});
    cx.record(Event::ProjectUpdated, made.id, Some(project), payload);
    Ok(made)
}

fn read_money(param: &'static str, text: &str) -> Result<Money> {
    let possible = Money::ZERO..=REQUEST_COST_MAX;
    Money::parse(text).filter(|amount| possible.contains(amount)).ok_or_else(|| {
        let message = format!(
            "Invalid '{param}': expected US dollars as a decimal text such as \"0.0125\", with at most 9 places and from 0 to \
             {REQUEST_COST_MAX}, but got '{text}'."
        );
        Error::invalid(param, message)
    })
}

fn read_tokens(param: &'static str, tokens: i64) -> Result<u64> {
    const MAX: i64 = 1_000_000_000;
    if (0..=MAX).contains(&tokens) {
        return Ok(tokens.unsigned_abs());
    }
    Err(Error::invalid(
        param,
        format!("Invalid '{param}': expected a value from 0 to {MAX}, but got {tokens}."),
    ))
}
