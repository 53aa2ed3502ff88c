//! Admission: what a call can cost at most is reserved, or it goes no further.

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::budget::Payer;
use tollgate_core::price::{Request, Size};
use tollgate_core::{AttemptId, Error, Money, Result};
use tollgate_ledger::{Attempt, Hold, Refused};
use tollgate_replica::{Model, Upstream};

use crate::Gateway;
use crate::call::Call;
use crate::caller::Caller;
use crate::growth;
use crate::tokenizer::Tokenizer;

/// A request that could cost more is a mistake, or an attack on somebody's books.
const REQUEST_COST_MAX: Money = Money(10_000_000_000_000);
/// More tokens than any model takes or makes in one choice.
const BELIEVABLE_MAX: u64 = 100_000_000;

/// What is asked for, by whom, of which model, and at which upstream.
pub(crate) struct Asked<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) call: &'a Call,
    pub(crate) body: &'a [u8],
    pub(crate) model: &'a Model,
    pub(crate) upstream: &'a Arc<Upstream>,
}

/// Takes a hold for one attempt. If it does not fit as its bytes bound it, its tokens are counted before anybody waits or
/// is refused.
pub(crate) async fn hold(
    gateway: &Gateway,
    asked: &Asked<'_>,
    id: AttemptId,
    attempt_of: Option<AttemptId>,
) -> Result<Hold> {
    let mut attempt = attempt(gateway, asked, id, attempt_of);
    refuse_absurd(&attempt)?;
    let patience = Some(Duration::from_millis(policy(gateway, asked.caller).wait_millis));
    if Tokenizer::of(&asked.model.id).is_none() {
        return Ok(gateway.ledger.hold(attempt, patience).await?);
    }
    // Whoever may be clamped is not before they are counted.
    let unclamped = Attempt { clamp_to: None, ..attempt.clone() };
    match gateway.ledger.hold(unclamped, None).await {
        Ok(hold) => return Ok(hold),
        Err(Refused::Error(error)) => return Err(error),
        Err(Refused::Misfit(_)) => {}
    }
    let size = &mut attempt.request.size;
    size.input = size.input.into_iter().chain(count_input(gateway, asked).await).min();
    Ok(gateway.ledger.hold(attempt, patience).await?)
}

/// The most tokens that the input is, counted where the model's tokenizer is known and its images are bounded.
pub(crate) async fn count_input(gateway: &Gateway, asked: &Asked<'_>) -> Option<u64> {
    let tokenizer = Tokenizer::of(&asked.model.id)?;
    let images = asked.call.image_tokens(&asked.model.facts)?;
    let _permit = gateway.counting.acquire().await.ok()?;
    let body = asked.body.to_vec();
    // A tokenizer that gives up on a text panics; the text is then bounded by its bytes.
    let counted = tokio::task::spawn_blocking(move || tokenizer.count(&body)).await.ok()??;
    Some(counted.saturating_add(images))
}

fn attempt(gateway: &Gateway, asked: &Asked<'_>, id: AttemptId, attempt_of: Option<AttemptId>) -> Attempt {
    let Asked { caller, call, model, upstream, .. } = asked;
    let facts = &model.facts;
    let policy = policy(gateway, caller);
    // The tokenizers that are known take bytes as they are.
    let growth = if Tokenizer::of(&model.id).is_some() { 0 } else { growth::bytes(asked.body) };
    Attempt {
        id,
        attempt_of,
        payer: Payer {
            organization: caller.key.organization,
            project: caller.project,
            user: caller.key.owner.user(),
            key: caller.key.id,
        },
        key_number: caller.key.number,
        endpoint: call.endpoint.usage(),
        model: Arc::from(model.id.as_str()),
        upstream: upstream.id,
        request: Request {
            price: facts.price,
            size: Size {
                input: call.input_max(facts, growth),
                input_max: facts.context_tokens.filter(|_| call.makes_output()),
                output_each: call.output_each(facts),
                output_each_max: if call.makes_output() { facts.context_tokens } else { Some(0) },
                choices: call.choices(),
                output_extra: call.output_extra(),
                overrun: model.overrun,
            },
            ceiling: facts.request_cost_max,
        },
        input_estimate: call.input_estimate(),
        believable_max: facts
            .context_tokens
            .filter(|_| call.makes_output())
            .map_or(BELIEVABLE_MAX, |tokens| tokens.saturating_mul(call.choices())),
        clamp_to: policy.clamp_to.filter(|_| call.makes_output() && !call.is_structured),
    }
}

/// What the caller's project wants done with what does not fit.
fn policy(gateway: &Gateway, caller: &Caller) -> tollgate_replica::SpendPolicy {
    gateway.replica.snapshot().project(caller.project).map(|project| project.spend_policy).unwrap_or_default()
}

fn refuse_absurd(attempt: &Attempt) -> Result<()> {
    let bound = attempt.request.bound().map(tollgate_core::price::Bound::total).unwrap_or_default();
    if bound <= REQUEST_COST_MAX {
        return Ok(());
    }
    let message = format!(
        "This request could cost up to {}. No request may cost more than {}: limit its output.",
        bound.dollars(),
        REQUEST_COST_MAX.dollars()
    );
    Err(Error::invalid("max_completion_tokens", message).code("cost_not_boundable"))
}
