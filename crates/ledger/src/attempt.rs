//! One dispatch to an upstream, from its hold to its end.

use std::sync::Arc;

use tollgate_core::budget::Payer;
use tollgate_core::labels::LabelSet;
use tollgate_core::price::{Cost, Overrun, Request, TokenUsage};
use tollgate_core::{AttemptId, Money, Timestamp, UpstreamId};

/// Which of OpenAI's usage endpoints counts the request, if one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Completions,
    Embeddings,
    Moderations,
    /// None of them: counting tokens, which costs nothing.
    TokenCounts,
}

impl Endpoint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Moderations => "moderations",
            Self::TokenCounts => "token_counts",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Completions, Self::Embeddings, Self::Moderations, Self::TokenCounts]
            .into_iter()
            .find(|endpoint| endpoint.as_str() == word)
    }
}

/// What is known of an attempt before it is sent.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Also says when it was admitted, and so to which periods it belongs.
    pub id: AttemptId,
    /// The first attempt of the same request, if this is a later one.
    pub attempt_of: Option<AttemptId>,
    pub payer: Payer,
    /// The key's short name in the books.
    pub key_number: i64,
    pub endpoint: Endpoint,
    pub model: Arc<str>,
    pub upstream: UpstreamId,
    pub labels: Option<Arc<LabelSet>>,
    /// What it asks for, and what that can cost.
    pub request: Request,
    /// What it asks for in its place where a hard limit applies.
    pub if_limited: Option<Request>,
    /// Tokens of the input by a rule of thumb, for when the upstream does not say.
    pub input_estimate: u64,
    /// More tokens than this are no usage of the model's, whoever reports them.
    pub believable_max: u64,
    /// Whether its bound is as close as it can be. If not, what does not fit is refused, to be asked for once more.
    pub is_final: bool,
    /// If not all of it can be had, less output will do, but no choice with less than this.
    pub clamp_to: Option<u64>,
}

impl Attempt {
    pub fn created_at(&self) -> Timestamp {
        self.id.created_at()
    }

    pub(crate) fn label_set(&self) -> i64 {
        self.labels.as_ref().map_or(0, |labels| labels.number)
    }
}

/// As if a request had taken and made all it could.
pub(crate) fn at_bound(request: &Request, input_estimate: u64) -> (TokenUsage, Cost) {
    let usage = TokenUsage {
        input: request.size.input_bound().unwrap_or(input_estimate),
        output: request.size.output_bound().unwrap_or_default(),
        ..TokenUsage::default()
    };
    let cost = match request.bound() {
        Some(bound) => Cost {
            input: bound.input,
            output: bound.output,
            request: bound.request,
            tools: bound.tools,
            ..Cost::default()
        },
        None => request.cost(usage),
    };
    (usage, cost)
}

/// A request whose input was counted after it had been admitted by its bytes.
fn counted(request: &Request, seen: &Seen) -> Request {
    let mut counted = *request;
    counted.size.input = request.size.input.into_iter().chain(seen.input_max).min();
    counted
}

/// A report as its upstream would write it.
fn as_reported(usage: TokenUsage) -> String {
    format!("{{\"prompt_tokens\":{},\"completion_tokens\":{}}}", usage.input, usage.output)
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

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Upstream, Self::Observed, Self::Bound].into_iter().find(|source| source.as_str() == word)
    }
}

/// What is odd about the usage of an attempt. Such usage is kept as it was reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// It cost more than its bound. Charged in full.
    pub above_bound: bool,
    /// More tokens than the model can have taken or made, or fewer than none. Not believed.
    pub absurd: bool,
    /// Its parts do not fit together. Believed where it says more.
    pub contradictory: bool,
    /// It was served in a tier of another price, which is not known here.
    pub service_tier: bool,
    /// The provider ran tools whose fee is not known here, or nobody says how often it ran them.
    pub tools: bool,
}

impl Flags {
    /// Of what the upstream does not say, of a request that may have searched as often as it liked.
    fn of_unbounded(request: &Request) -> Self {
        Self { tools: request.size.searches.is_none(), ..Self::default() }
    }

    fn named(self) -> [(&'static str, bool); 5] {
        [
            ("above_bound", self.above_bound),
            ("usage_absurd", self.absurd),
            ("usage_contradictory", self.contradictory),
            ("service_tier", self.service_tier),
            ("tools", self.tools),
        ]
    }

    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// As stored: words with spaces between them, nothing for none.
    pub(crate) fn to_stored(self) -> Option<String> {
        let words: Vec<&str> =
            self.named().into_iter().filter(|(_, is_set)| *is_set).map(|(word, _)| word).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

/// Usage as an upstream reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// `None` if it reported none, or none that could be read as numbers of tokens.
    pub usage: Option<TokenUsage>,
    pub flags: Flags,
    /// The text of the report, kept if something is odd about it.
    pub text: Option<String>,
}

/// What the one who sent an attempt knows of its usage without a word of the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// By the text of the answer, as far as it came.
    pub(crate) usage: Option<TokenUsage>,
    /// The most that the input is, where it was counted.
    pub(crate) input_max: Option<u64>,
}

/// How an attempt came to its end, as the one who sent it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was never sent, or the upstream refused it before running it.
    Voided,
    /// It was stopped in the middle, which stops the upstream's bill as well. `is_shown`: what was made shows as it is
    /// made, so that what was seen is all of it.
    Cancelled { seen: Seen, is_shown: bool },
    /// It may have run, and this is what is known of its usage.
    Ended {
        reported: Reported,
        /// For when the upstream does not say or is not believed.
        seen: Seen,
    },
}

/// How a hold ends on the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Settled { source: UsageSource, usage: TokenUsage, cost: Cost, flags: Flags, reported: Option<String> },
    Voided,
}

impl Outcome {
    /// Decides what is charged. What an upstream reports is charged if it can be believed; what is not known is charged
    /// at the bound where a hard limit applies, for the provider may bill what was not seen here, and elsewhere by what
    /// was seen, if anything was.
    pub(crate) fn of(attempt: &Attempt, request: &Request, ending: &Ending, is_limited: bool) -> Self {
        let (reported, seen) = match ending {
            Ending::Voided => return Self::Voided,
            Ending::Cancelled { seen, is_shown } => {
                let request = counted(request, seen);
                // How far an answer had come that nobody saw is not known.
                return if is_limited && !(*is_shown && seen.usage.is_some()) {
                    Self::at_bound(attempt, &request)
                } else {
                    Self::cancelled(attempt, &request, seen.usage, is_limited)
                };
            }
            Ending::Ended { reported, seen } => (reported, seen),
        };
        let mut flags = reported.flags;
        let is_believable = |usage: &TokenUsage| {
            usage.input.max(usage.output) <= attempt.believable_max
                && usage.web_searches <= TokenUsage::WEB_SEARCHES_MAX
        };
        let believed = reported.usage.filter(is_believable);
        flags.absurd |= reported.usage.is_some() && believed.is_none();
        // A tier of a price that is not known is charged at the usual one, and told.
        let served = believed.and_then(|usage| usage.tier);
        flags.service_tier |= served.is_some_and(|tier| !request.knows(tier));
        flags.tools |= believed.is_some_and(|usage| !request.knows_web_searches(usage.web_searches));
        let (source, usage, cost) = match (believed, seen.usage) {
            (Some(usage), _) => (UsageSource::Upstream, usage, request.cost(usage)),
            (None, Some(usage)) if !is_limited || request.is_free() => {
                (UsageSource::Observed, usage, request.cost(usage))
            }
            (None, _) => {
                let (usage, cost) = at_bound(&counted(request, seen), attempt.input_estimate);
                (UsageSource::Bound, usage, cost)
            }
        };
        flags.tools |= source != UsageSource::Upstream && request.size.searches.is_none();
        let is_above = request.bound().is_some_and(|bound| cost.total() > bound.total());
        flags.above_bound =
            is_above || Excess::of(request, usage).is_some() && source == UsageSource::Upstream;
        let kept = || reported.text.clone().or_else(|| reported.usage.map(as_reported));
        let reported = flags.is_any().then(kept).flatten();
        Self::Settled { source, usage, cost, flags, reported }
    }

    fn at_bound(attempt: &Attempt, request: &Request) -> Self {
        let (usage, cost) = at_bound(request, attempt.input_estimate);
        let flags = Flags::of_unbounded(request);
        Self::Settled { source: UsageSource::Bound, usage, cost, flags, reported: None }
    }

    /// What was seen is all that was made. How much the input was is not known; under a hard limit it is the most.
    fn cancelled(attempt: &Attempt, request: &Request, seen: Option<TokenUsage>, is_limited: bool) -> Self {
        let mut usage = seen.unwrap_or(TokenUsage { input: attempt.input_estimate, ..TokenUsage::default() });
        if is_limited {
            usage.input = request.size.input_bound().unwrap_or(usage.input).max(usage.input);
        }
        let cost = request.cost(usage);
        let flags = Flags::of_unbounded(request);
        Self::Settled { source: UsageSource::Observed, usage, cost, flags, reported: None }
    }

    pub(crate) fn cost(&self) -> Cost {
        match self {
            Self::Settled { cost, .. } => *cost,
            Self::Voided => Cost::default(),
        }
    }

    pub(crate) fn usage(&self) -> TokenUsage {
        match self {
            Self::Settled { usage, .. } => *usage,
            Self::Voided => TokenUsage::default(),
        }
    }

    pub(crate) fn source(&self) -> Option<UsageSource> {
        match self {
            Self::Settled { source, .. } => Some(*source),
            Self::Voided => None,
        }
    }

    pub(crate) fn flags(&self) -> Flags {
        match self {
            Self::Settled { flags, .. } => *flags,
            Self::Voided => Flags::default(),
        }
    }

    pub(crate) fn reported(&self) -> Option<&str> {
        match self {
            Self::Settled { reported, .. } => reported.as_deref(),
            Self::Voided => None,
        }
    }

    pub(crate) fn state(&self) -> State {
        match self {
            Self::Settled { .. } => State::Settled,
            Self::Voided => State::Voided,
        }
    }
}

/// By how much an answer exceeded what it was bounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) input: Overrun,
    pub(crate) output: Overrun,
    /// Beyond the bound in money.
    pub(crate) cost: Money,
}

impl Excess {
    /// `None` if it kept within its bound.
    pub(crate) fn of(request: &Request, usage: TokenUsage) -> Option<Self> {
        let size = &request.size;
        let is_over = |actual: u64, bound: Option<u64>| bound.is_some_and(|bound| actual > bound);
        let bound = request.bound().map_or(Money::MAX, tollgate_core::price::Bound::total);
        let cost = request.cost(usage).total().checked_sub(bound).unwrap_or_default();
        let is_longer =
            is_over(usage.input, size.input_bound()) || is_over(usage.output, size.output_bound());
        if !is_longer && cost == Money::ZERO {
            return None;
        }
        let (input, output) = if is_longer { size.overruns(usage) } else { (Overrun::NONE, Overrun::NONE) };
        Some(Self { input, output, cost })
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
