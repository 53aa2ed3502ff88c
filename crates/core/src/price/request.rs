//! A request as far as its cost is concerned, and how far answers have exceeded what requests were bounded to.

use super::{Bound, Cost, Kinds, MILLION, Price, PriceVersion, Tier, TokenUsage};
use crate::money::Money;

/// By how much more than they were bounded to a model's answers have taken, or made: the worst of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// In millionths of the bound, of answers with bounds of [`Overrun::LARGE_FROM`] and more: a million where none has.
    pub ppm: u64,
    /// In tokens, of answers with smaller bounds, of which a few tokens would be a large part.
    pub tokens: u64,
    /// The most there ever was beyond a bound, which the model is therefore able to.
    pub seen: u64,
}

impl Overrun {
    pub const NONE: Self = Self { ppm: MILLION, tokens: 0, seen: 0 };
    /// From so many tokens on an overrun is a part of the bound.
    pub const LARGE_FROM: u64 = 1_024;

    /// That of an answer that took `actual` and was bounded to `bound`.
    pub fn of(actual: u64, bound: u64) -> Self {
        if actual <= bound {
            Self::NONE
        } else if bound < Self::LARGE_FROM {
            Self { tokens: actual - bound, seen: actual, ..Self::NONE }
        } else {
            let ppm = (u128::from(actual) * u128::from(MILLION)).div_ceil(u128::from(bound));
            Self {
                ppm: u64::try_from(ppm).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs()),
                tokens: 0,
                seen: actual,
            }
        }
    }

    /// `tokens` and what they may be exceeded by, within what is possible at all.
    pub(super) fn over(self, tokens: u64, possible: Option<u64>) -> u64 {
        let part = (u128::from(tokens) * u128::from(self.ppm.max(MILLION))).div_ceil(u128::from(MILLION));
        let exceeded = u64::try_from(part).unwrap_or(u64::MAX).max(tokens.saturating_add(self.tokens));
        exceeded.min(possible.unwrap_or(u64::MAX).max(self.seen)).max(tokens)
    }

    /// The most that can be told so that no more than `most` can come of it.
    pub(super) fn told_within(self, most: u64) -> u64 {
        let part = u128::from(most) * u128::from(MILLION) / u128::from(self.ppm.max(MILLION));
        u64::try_from(part).unwrap_or(u64::MAX).min(most.saturating_sub(self.tokens))
    }
}

impl Default for Overrun {
    fn default() -> Self {
        Self::NONE
    }
}

/// A request that could cost more is a mistake, or an attack on somebody's books; and no correction makes one cost more.
pub const REQUEST_COST_MAX: Money = Money(10_000_000_000_000);

/// The most tokens a request can take and make. `None` is what nothing limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// As counted from the request, and no more than the model takes whatever was counted.
    pub input: Option<u64>,
    pub input_max: Option<u64>,
    pub kinds: Kinds,
    /// Of one choice as the upstream is told, and no more than the model makes whatever it is told.
    pub output_each: Option<u64>,
    pub output_each_max: Option<u64>,
    pub choices: u64,
    /// Output that is billed beside the choices, such as a prediction that was rejected.
    pub output_extra: u64,
    /// Searches of the web that the provider may run, each of which gives the model another turn; the input is that of
    /// all turns.
    pub searches: Option<u64>,
    pub input_overrun: Overrun,
    /// Of one choice.
    pub output_overrun: Overrun,
}

impl Size {
    /// Of embeddings and the like.
    pub const fn without_output(input: Option<u64>) -> Self {
        Self {
            input,
            input_max: None,
            kinds: Kinds::NONE,
            output_each: Some(0),
            output_each_max: Some(0),
            choices: 1,
            output_extra: 0,
            searches: Some(0),
            input_overrun: Overrun::NONE,
            output_overrun: Overrun::NONE,
        }
    }

    /// All input that can be billed.
    pub fn input_bound(&self) -> Option<u64> {
        Some(self.input_overrun.over(self.input?, self.input_max))
    }

    /// All output that can be billed.
    pub fn output_bound(&self) -> Option<u64> {
        let each = self.output_overrun.over(self.output_each?, self.output_each_max);
        Some(each.saturating_mul(self.choices).saturating_add(self.output_extra))
    }

    /// What is there beyond the bounds of one choice, by a usage of the whole: of input, and of output.
    pub fn overruns(&self, usage: TokenUsage) -> (Overrun, Overrun) {
        // Against what was counted and told: what earlier answers overran is in the bounds already.
        let each = usage.output.saturating_sub(self.output_extra).div_ceil(self.choices.max(1));
        let of = |actual, bound: Option<u64>| bound.map_or(Overrun::NONE, |bound| Overrun::of(actual, bound));
        (of(usage.input, self.input), of(each, self.output_each))
    }

    /// The most that one choice may be allowed so that all output is at most `output`.
    fn each_within(&self, output: u64) -> u64 {
        let each = output.saturating_sub(self.output_extra) / self.choices.max(1);
        self.output_overrun.told_within(each)
    }
}

/// A request as far as its cost is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The price in force when it was admitted, which stays its price.
    pub price: Option<Price>,
    pub size: Size,
    /// What an operator says that no request to the model costs more than.
    pub ceiling: Option<Money>,
}

impl Request {
    /// One whose bound is known, or known to be none, and nothing else of it.
    pub fn flat(bound: Option<Money>) -> Self {
        let size = Size { output_each: None, output_each_max: None, ..Size::without_output(None) };
        Self { price: Some(Price::FREE), size, ceiling: bound }
    }

    /// The most it can cost; `None` if that is not known.
    pub fn bound(&self) -> Option<Bound> {
        let price = self.price?;
        let computed = match (self.size.input_bound(), self.size.output_bound(), self.size.searches) {
            (Some(input), Some(output), Some(searches)) => {
                let bound = price.bound(input, output, self.size.kinds);
                bound.map(|bound| Bound { tools: price.searches(searches), ..bound })
            }
            _ => None,
        };
        match (computed, self.ceiling) {
            (Some(bound), Some(ceiling)) => Some(bound.within(ceiling)),
            (None, Some(ceiling)) if self.is_priced() => Some(Bound { output: ceiling, ..Bound::default() }),
            (bound, _) => bound,
        }
    }

    /// Whether it is known what a tier costs.
    pub fn knows(&self, tier: Tier) -> bool {
        self.price.is_none_or(|price| price.is_free() || price.tiers.factor(tier).is_some())
    }

    /// Which price it is; `None` if it has none.
    pub fn price_version(&self) -> Option<PriceVersion> {
        self.price.filter(|_| self.is_priced()).map(|price| price.version)
    }

    /// Whether it is known what so many searches of the web cost.
    pub fn knows_web_searches(&self, searches: u64) -> bool {
        searches == 0 || self.price.is_none_or(|price| price.web_search.is_some())
    }

    /// Whether it costs nothing, however much it takes and makes.
    pub fn is_free(&self) -> bool {
        self.is_priced() && self.price.is_some_and(|price| price.is_free())
    }

    /// Whether its usage can be turned into money.
    pub fn is_priced(&self) -> bool {
        // An output without a price is found out by asking what one token of it would cost.
        self.price.is_some_and(|price| {
            price.bound(1, self.size.output_bound().unwrap_or(1).min(1), Kinds::default()).is_some()
        })
    }

    pub fn cost(&self, usage: TokenUsage) -> Cost {
        match self.price {
            // What does not say how it was served may have been served as it was asked for, and no cheaper than usual.
            Some(price) if self.is_priced() => {
                let is_dearer = |tier: &Tier| price.tiers.factor(*tier) > Some(MILLION);
                let tier = usage.tier.or(self.size.kinds.tier.filter(is_dearer));
                // Nor does one who was to draw, and does not say how much of it that is, draw nothing.
                let is_drawn = self.size.kinds.image_output && usage.image_output.is_none();
                let image_output = usage.image_output.or(is_drawn.then_some(usage.output));
                price.cost(TokenUsage { image_output, tier, ..usage })
            }
            _ => Cost::default(),
        }
    }

    /// The same with less output, so that it costs at most `whole`; `None` if less than `output_each_min` would be left.
    #[must_use]
    pub fn clamped(&self, whole: Money, output_each_min: u64) -> Option<Self> {
        let price = self.price?;
        let money = whole.checked_sub(price.searches(self.size.searches?))?;
        let output = price.output_within(self.size.input_bound()?, money, self.size.kinds)?;
        let each = self.size.each_within(output).min(self.size.output_each.unwrap_or(u64::MAX));
        if each < output_each_min.max(1) {
            return None;
        }
        let clamped = Self { size: Size { output_each: Some(each), ..self.size }, ..*self };
        clamped.bound().is_some_and(|bound| bound.total() <= whole).then_some(clamped)
    }
}
