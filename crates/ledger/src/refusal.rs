//! What whoever is refused is told: which limit, why, and what would help.

use tollgate_core::budget::{Limit, Reason, Scope};
use tollgate_core::error::Kind;
use tollgate_core::price::Overrun;
use tollgate_core::{Error, Interval, Money};

use crate::attempt::Attempt;
use crate::batch::Refused;

/// `retry_after` is in how many seconds money that is only held may be free again.
pub(crate) fn error(attempt: &Attempt, refused: &Refused, retry_after: u64) -> Error {
    let Refused { refusal, limit, .. } = refused;
    let whose = whose(limit.scope);
    match refusal.reason {
        Reason::Exhausted => Error::new(Kind::QuotaExhausted, exhausted(attempt, refused))
            .code(code(limit.scope))
            .header("x-should-retry", "false"),
        Reason::Held => Error::new(
            Kind::BudgetHeld,
            format!(
                "What is left of the spend limit of {} {} of {whose} is reserved for requests in flight. Please try again \
                 in a moment.",
                limit.amount.dollars(),
                a(limit.interval)
            ),
        )
        .code("budget_held_by_inflight")
        .header("retry-after", retry_after.to_string()),
        Reason::Unbounded if attempt.request.is_priced() => Error::new(
            Kind::InvalidRequest,
            format!(
                "The cost of this request to `{}` has no upper bound, and {whose} has a hard spend limit. Limit its output \
                 (`max_completion_tokens`), or have an operator set `max_output_tokens` and `context_tokens` of the model, \
                 `image_tokens` for its images, or `request_cost_max`.",
                attempt.model
            ),
        )
        .code("cost_not_boundable"),
        Reason::Unbounded => Error::new(
            Kind::InvalidRequest,
            format!(
                "The model `{}` has no price, and {whose} has a hard spend limit. An operator can set the price.",
                attempt.model
            ),
        )
        .code("model_price_unknown")
        .param("model"),
    }
}

const fn code(scope: Scope) -> &'static str {
    match scope {
        Scope::Organization(_) => "organization_spend_limit_exceeded",
        Scope::Project(_) => "project_spend_limit_exceeded",
        Scope::User(..) => "user_spend_limit_exceeded",
        Scope::Key(_) => "api_key_spend_limit_exceeded",
    }
}

fn whose(scope: Scope) -> String {
    match scope {
        Scope::Organization(id) => format!("organization `{id}`"),
        Scope::Project(id) => format!("project `{id}`"),
        Scope::User(_, id) => format!("user `{id}`"),
        Scope::Key(id) => format!("API key `{id}`"),
    }
}

const fn a(interval: Interval) -> &'static str {
    match interval {
        Interval::Day => "a day",
        Interval::Week => "a week",
        Interval::Month => "a month",
    }
}

/// Whether all is spent, or only too little is left for this request, are two things to whoever has to mend it.
fn exhausted(attempt: &Attempt, refused: &Refused) -> String {
    let Refused { limit, period, settled, .. } = refused;
    let (amount, whose, left) = (limit.amount.dollars(), whose(limit.scope), limit.amount - *settled);
    let (each, again) = (a(limit.interval), in_zone(limit, period.end));
    if left <= Money::ZERO {
        return format!(
            "The spend limit of {amount} {each} of {whose} is reached. It can be raised, and starts anew {again}."
        );
    }
    let bound = attempt.request.bound().map(tollgate_core::price::Bound::total).unwrap_or_default();
    let size = &attempt.request.size;
    let raised = if (size.input_overrun, size.output_overrun) == (Overrun::NONE, Overrun::NONE) {
        ""
    } else {
        " (answers of this model have exceeded their bounds before, which raised them)"
    };
    let clamp = match attempt.clamp_to {
        Some(tokens) => format!(" Fewer than the {tokens} tokens of output fit that it may be lowered to."),
        None => String::new(),
    };
    format!(
        "This request could cost up to {}{raised}, and of the spend limit of {amount} {each} of {whose} only {} is left; it \
         starts anew {again}.{clamp} Limit its output (`max_completion_tokens`), or have the limit raised.",
        bound.dollars(),
        left.dollars(),
    )
}

fn in_zone(limit: &Limit, at: tollgate_core::Timestamp) -> String {
    if limit.zone.is_utc() {
        format!("at {at}")
    } else {
        format!("at {at} (midnight in {})", limit.zone.name())
    }
}
