//! One dispatch to an upstream, from its hold to its end.

use tollgate_core::price::{Bound, Cost, Price, TokenUsage};
use tollgate_core::{AttemptId, KeyId, Money, OrganizationId, Principal, ProjectId, Timestamp, UpstreamId};

/// Which of OpenAI's usage endpoints counts the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Completions,
    Embeddings,
}

impl Endpoint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Completions, Self::Embeddings].into_iter().find(|endpoint| endpoint.as_str() == word)
    }
}

/// What is known of an attempt before it is sent.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Also says when it was admitted, and so to which periods it belongs.
    pub id: AttemptId,
    /// The first attempt of the same request, if this is a later one.
    pub attempt_of: Option<AttemptId>,
    pub organization: OrganizationId,
    pub project: ProjectId,
    pub key: KeyId,
    pub owner: Principal,
    pub endpoint: Endpoint,
    pub model: String,
    pub upstream: UpstreamId,
    /// The price in force when it was admitted, which stays its price.
    pub price: Option<Price>,
    /// The most tokens it can take and make; `None` where nothing limits them.
    pub input_max: Option<u64>,
    pub output_max: Option<u64>,
    /// Tokens of the input by a rule of thumb, for when the upstream does not say.
    pub input_estimate: u64,
}

impl Attempt {
    pub fn created_at(&self) -> Timestamp {
        self.id.created_at()
    }

    /// The most it can cost; `None` if that is not known, and then no hard limit admits it.
    pub fn bound(&self) -> Option<Bound> {
        self.price?.bound(self.input_max?, self.output_max?)
    }

    pub(crate) fn bound_total(&self) -> Money {
        self.bound().map(Bound::total).unwrap_or_default()
    }

    /// Whether its usage can be turned into money.
    pub fn is_priced(&self) -> bool {
        // An output without a price is found out by asking what one token of it would cost.
        self.price.is_some_and(|price| price.bound(1, self.output_max.unwrap_or(1)).is_some())
    }

    fn cost(&self, usage: TokenUsage) -> Cost {
        match self.price {
            Some(price) if self.is_priced() => price.cost(usage),
            _ => Cost::default(),
        }
    }

    /// As if it had taken and made all it could.
    pub(crate) fn at_bound(&self) -> Outcome {
        let usage = TokenUsage {
            input: self.input_max.unwrap_or(self.input_estimate),
            output: self.output_max.unwrap_or_default(),
            ..TokenUsage::default()
        };
        let cost = match self.bound() {
            Some(bound) => Cost { input: bound.input, output: bound.output, ..Cost::default() },
            None => self.cost(usage),
        };
        Outcome::Settled { source: UsageSource::Bound, usage, cost }
    }

    pub(crate) fn settled(&self, source: UsageSource, usage: TokenUsage) -> Outcome {
        Outcome::Settled { source, usage, cost: self.cost(usage) }
    }
}

/// Where the usage of a settled attempt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageSource {
    /// The upstream said so.
    Upstream,
    /// Estimated from the text that was seen.
    Observed,
    /// Not known: the most it could have been.
    Bound,
}

impl UsageSource {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Observed => "observed",
            Self::Bound => "bound",
        }
    }
}

/// How a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Settled {
        source: UsageSource,
        usage: TokenUsage,
        cost: Cost,
    },
    /// It was never sent, or the upstream refused it before running it.
    Voided,
}

impl Outcome {
    pub(crate) fn cost(self) -> Cost {
        match self {
            Self::Settled { cost, .. } => cost,
            Self::Voided => Cost::default(),
        }
    }

    pub(crate) fn usage(self) -> TokenUsage {
        match self {
            Self::Settled { usage, .. } => usage,
            Self::Voided => TokenUsage::default(),
        }
    }

    pub(crate) fn source(self) -> Option<UsageSource> {
        match self {
            Self::Settled { source, .. } => Some(source),
            Self::Voided => None,
        }
    }

    pub(crate) fn state(self) -> State {
        match self {
            Self::Settled { .. } => State::Settled,
            Self::Voided => State::Voided,
        }
    }
}

/// The life of an attempt: held, then settled or voided, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Held,
    Settled,
    Voided,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Settled => "settled",
            Self::Voided => "voided",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Held, Self::Settled, Self::Voided].into_iter().find(|state| state.as_str() == word)
    }
}
