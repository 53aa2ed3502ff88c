//! Admission: what a call can cost at most is reserved, or it goes no further.

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::budget::Payer;
use tollgate_core::price::{Price, REQUEST_COST_MAX, Request, Size};
use tollgate_core::{AttemptId, Error, Result, Timestamp};
use tollgate_ledger::{Attempt, Hold, Refused};
use tollgate_replica::{Model, SpendPolicy, Upstream};

use crate::Gateway;
use crate::call::{Call, Search};
use crate::caller::Caller;
use crate::tokenizer::Tokenizer;

/// More tokens than any model takes or makes in one choice. Where the context is known, it is four times as many: what a
/// catalog says of a model may be wrong, and what is reported is then charged and told.
const BELIEVABLE_MAX: u64 = 100_000_000;

/// What is asked for, by whom, of which model, and at which upstream.
pub(crate) struct Asked<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) call: &'a Call,
    pub(crate) body: &'a [u8],
    pub(crate) model: &'a Model,
    pub(crate) trace: Option<&'a str>,
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
    refuse_unpriced_tier(asked, id.created_at())?;
    let policy = policy(gateway, asked.caller);
    let patience = Some(Duration::from_millis(policy.wait_millis));
    let mut attempt = attempt(asked, id, attempt_of, policy);
    refuse_search(asked, &attempt)?;
    refuse_absurd(&attempt)?;
    // Where no limit applies nothing has to be counted.
    let size = &attempt.if_limited.as_ref().unwrap_or(&attempt.request).size;
    if Tokenizer::of(&asked.model.id).is_none() || size.input.is_none() || size.searches != Some(0) {
        return gateway.ledger.hold(attempt, patience).await.map_err(|refused| told(refused, asked));
    }
    // Whoever may be clamped is not before they are counted.
    let unclamped = Attempt { clamp_to: None, is_final: false, ..attempt.clone() };
    match gateway.ledger.hold(unclamped, None).await {
        Ok(hold) => return Ok(hold),
        Err(refused @ Refused::Error(_)) => return Err(told(refused, asked)),
        Err(Refused::Misfit(_)) => {}
    }
    let size = &mut attempt.if_limited.as_mut().unwrap_or(&mut attempt.request).size;
    size.input = size.input.into_iter().chain(count_input(gateway, asked).await).min();
    gateway.ledger.hold(attempt, patience).await.map_err(|refused| told(refused, asked))
}

/// The ledger knows that nothing bounds a request, and not why.
fn told(refused: Refused, asked: &Asked<'_>) -> Error {
    let error = Error::from(refused);
    let is_unbounded = error.code == Some("cost_not_boundable");
    let search =
        asked.call.search.as_ref().filter(|search| search.calls_max.is_none() && !search.is_optional());
    if let Some(search) = search.filter(|_| is_unbounded) {
        let message = format!(
            "Under a hard spend limit a search of the web has to say how often it may be run at most, by '{}'.",
            search.calls_param
        );
        return Error::invalid(search.calls_param.clone(), message).code("cost_not_boundable");
    }
    let unknown = asked.call.unknown_parameter(&asked.upstream.settings.allowed_parameters);
    match unknown.filter(|_| is_unbounded) {
        None => error,
        Some(name) => {
            let message = format!(
                "Under a hard spend limit '{name}' is refused: it is not known to leave the cost of a request as it is. Leave \
                 it out, or have an operator allow it for the upstream `{}` (`allowed_parameters`).",
                asked.upstream.name
            );
            Error::invalid(name, message).code("cost_not_boundable")
        }
    }
}

/// How often the provider may search, `None` for as often as the model likes; and how often where a hard limit applies, if
/// that is another number: 0, for the search is taken out where nothing bounds what it costs. It is wherever its fee is not
/// known.
fn searches(asked: &Asked<'_>, price: Option<&Price>) -> (Option<u64>, Option<u64>) {
    let Some(search) = &asked.call.search else { return (Some(0), None) };
    if price.is_some_and(|price| price.web_search.is_none()) {
        return (Some(0), None);
    }
    let has_bound = search.calls_max.is_some() || asked.model.facts.request_cost_max.is_some();
    (search.calls_max, (!has_bound && search.is_optional()).then_some(0))
}

/// A search that the model has to make cannot be taken out.
fn refuse_search(asked: &Asked<'_>, attempt: &Attempt) -> Result<()> {
    let removed = asked.call.removed_search(attempt.request.size.searches);
    let Some(search) = removed.filter(|search| !search.is_optional()) else { return Ok(()) };
    let message = format!(
        "What a search of the web costs ('{}') is not known here for the model `{}`. Leave it out, or have an operator set \
         its `web_search_price`.",
        search.kind, asked.model.id
    );
    Err(Error::unsupported(search.param.clone(), message))
}

/// The most tokens that the input is, counted where the model's tokenizer is known and its images are bounded.
pub(crate) async fn count_input(gateway: &Gateway, asked: &Asked<'_>) -> Option<u64> {
    let tokenizer = Tokenizer::of(&asked.model.id)?;
    let images = asked.call.image_tokens(&asked.model.facts)?;
    let _permit = gateway.counting.acquire().await.ok()?;
    let (text, messages) = asked.call.text(asked.body);
    // A tokenizer that gives up on a text panics; the text is then bounded by its bytes.
    let counted = tokio::task::spawn_blocking(move || tokenizer.count(&text, messages)).await.ok()??;
    Some(counted.saturating_add(images))
}

fn attempt(asked: &Asked<'_>, id: AttemptId, attempt_of: Option<AttemptId>, policy: SpendPolicy) -> Attempt {
    let Asked { caller, call, model, upstream, .. } = asked;
    let facts = &model.facts;
    // The tokenizers that are known take bytes as they are.
    let reshape = Tokenizer::of(&model.id).is_none().then_some(asked.body);
    // With a parameter that nobody vouches for, nothing bounds what it costs.
    let is_known = call.unknown_parameter(&upstream.settings.allowed_parameters).is_none();
    // What costs nothing may be as large as it likes.
    let price = if call.endpoint.is_free() { Some(Price::FREE) } else { model.prices.at(id.created_at()) };
    // What has no price of its own is not charged as if it were text.
    let price = price.filter(|price| price.prices(call.kinds));
    let is_free = price.is_some_and(|price| price.is_free());
    let input = call.input_max(facts, reshape).or_else(|| is_free.then(|| call.input_estimate()));
    let request = |searches: Option<u64>| {
        // Each search gives the model another turn, with all that was found before.
        let turns = |tokens: Option<u64>| match searches {
            Some(0) => tokens,
            Some(searches) => {
                call.context(facts).map(|context| context.saturating_mul(searches.saturating_add(1)))
            }
            None => None,
        };
        // Of messages nobody says whether their limit is that of each turn or of all.
        let output_turns = |searches: Option<u64>| match searches {
            Some(searches) if call.endpoint.is_native() => searches.saturating_add(1),
            _ => 1,
        };
        Request {
            price,
            size: Size {
                input: turns(input).filter(|_| is_known),
                input_max: turns(call.context(facts)),
                kinds: call.kinds_at(upstream),
                output_each: call.output_each(facts),
                output_each_max: if call.makes_output() { facts.context_tokens } else { Some(0) },
                choices: call.choices().saturating_mul(output_turns(searches)),
                output_extra: call.output_extra(),
                searches,
                input_overrun: model.input_overrun,
                output_overrun: model.output_overrun,
            },
            ceiling: facts.request_cost_max,
        }
    };
    let (searches, if_limited) = searches(asked, price.as_ref());
    let whole = request(searches);
    // Where not even the number of searches bounds it, none is all there can be under a limit.
    let is_optional = call.search.as_ref().is_some_and(Search::is_optional);
    let if_limited = if_limited.or((is_optional && price.is_some() && whole.bound().is_none()).then_some(0));
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
        model: Arc::clone(&model.id),
        upstream: upstream.id,
        labels: caller.labels.clone(),
        request: whole,
        if_limited: if_limited.map(|searches| request(Some(searches))),
        input_estimate: call.input_estimate(),
        believable_max: facts
            .context_tokens
            .filter(|_| call.makes_output() && searches == Some(0))
            .map_or(BELIEVABLE_MAX, |tokens| tokens.saturating_mul(4 * call.choices())),
        is_final: true,
        clamp_to: policy.clamp_to.filter(|_| call.makes_output() && !call.is_structured),
    }
}

/// What the caller's project wants done with what does not fit.
fn policy(gateway: &Gateway, caller: &Caller) -> SpendPolicy {
    gateway.replica.snapshot().project(caller.project).map(|project| project.spend_policy).unwrap_or_default()
}

/// A tier is asked for on purpose, so that what it costs has to be known.
fn refuse_unpriced_tier(asked: &Asked<'_>, at: Timestamp) -> Result<()> {
    let Some(tier) = asked.call.kinds.tier else { return Ok(()) };
    let price = asked.model.prices.at(at);
    if price.is_none_or(|price| price.tiers.factor(tier).is_some()) {
        return Ok(());
    }
    let tier = tier.as_str();
    let message = format!(
        "What the service tier '{tier}' of the model `{}` costs is not known here. Leave 'service_tier' out, or have an \
         operator set its `{tier}_price_factor`.",
        asked.model.id
    );
    Err(Error::unsupported("service_tier", message))
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
