//! Unit prices of the parts of a request.

use super::{MILLION, Tier};
use crate::money::UnitPrice;

/// Unit prices. What has no price of its own costs what plain input costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub input: UnitPrice,
    pub cached_input: Option<UnitPrice>,
    pub cache_write: Option<UnitPrice>,
    /// To keep it for an hour; without a price of its own it costs what other writing costs.
    pub cache_write_1h: Option<UnitPrice>,
    /// `None` for a model known only by its input, as embeddings are: it prices no request that makes output.
    pub output: Option<UnitPrice>,
    /// Without a price of its own reasoning costs what other output costs.
    pub reasoning: Option<UnitPrice>,
    /// `None` for a model whose audio has no price: it prices no request that has any.
    pub audio_input: Option<UnitPrice>,
    pub audio_output: Option<UnitPrice>,
    /// Without a price of its own what is seen costs what other input costs.
    pub image_input: Option<UnitPrice>,
    /// `None` for a model whose images have no price: it prices no request that makes any.
    pub image_output: Option<UnitPrice>,
}

/// What of a request's tokens may have a price of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Input that is kept in the cache for an hour.
    pub kept_1h: bool,
    pub audio_input: bool,
    pub audio_output: bool,
    pub image_input: bool,
    pub image_output: bool,
    /// The tier that is asked for.
    pub tier: Option<Tier>,
    /// Whether it may be served in any tier, for nobody says in which.
    pub any_tier: bool,
}

impl Kinds {
    /// What is most usual.
    pub const NONE: Self = Self {
        kept_1h: false,
        audio_input: false,
        audio_output: false,
        image_input: false,
        image_output: false,
        tier: None,
        any_tier: false,
    };
    pub(super) const ALL: Self = Self {
        kept_1h: true,
        audio_input: true,
        audio_output: true,
        image_input: true,
        image_output: true,
        ..Self::NONE
    };
}

impl Rates {
    /// All input at one price, and no output.
    pub const fn of_input(input: UnitPrice) -> Self {
        Self {
            input,
            cached_input: None,
            cache_write: None,
            cache_write_1h: None,
            output: None,
            reasoning: None,
            audio_input: None,
            audio_output: None,
            image_input: None,
            image_output: None,
        }
    }

    pub(super) fn dearest_input(self, kinds: Kinds) -> UnitPrice {
        let kept_1h = self.cache_write_1h.filter(|_| kinds.kept_1h);
        let heard = self.audio_input.filter(|_| kinds.audio_input);
        let seen = self.image_input.filter(|_| kinds.image_input);
        let others = [self.cached_input, self.cache_write, kept_1h, heard, seen];
        others.into_iter().flatten().fold(self.input, UnitPrice::max)
    }

    /// `None` if it has no price. Whether a model reasons or draws is not asked everywhere: one that can does.
    pub(super) fn dearest_output(self, kinds: Kinds) -> Option<UnitPrice> {
        let spoken = self.audio_output.filter(|_| kinds.audio_output);
        let output = self.output?;
        Some([spoken, self.image_output, self.reasoning].into_iter().flatten().fold(output, UnitPrice::max))
    }

    /// The same in a tier.
    pub(super) fn scaled(self, factor: u64) -> Self {
        let scale = |price: UnitPrice| {
            let product = i128::from(price.0) * i128::from(factor);
            let pico = (product + i128::from(MILLION) - 1) / i128::from(MILLION);
            UnitPrice(i64::try_from(pico).unwrap_or(i64::MAX))
        };
        if factor == MILLION {
            return self;
        }
        Self {
            input: scale(self.input),
            cached_input: self.cached_input.map(scale),
            cache_write: self.cache_write.map(scale),
            cache_write_1h: self.cache_write_1h.map(scale),
            output: self.output.map(scale),
            reasoning: self.reasoning.map(scale),
            audio_input: self.audio_input.map(scale),
            audio_output: self.audio_output.map(scale),
            image_input: self.image_input.map(scale),
            image_output: self.image_output.map(scale),
        }
    }

    pub(super) fn cache_write(self) -> UnitPrice {
        self.cache_write.unwrap_or(self.input)
    }

    /// How many nano-dollars the parts of output can add by being rounded up each by itself.
    pub(super) fn output_rounding(self, kinds: Kinds) -> i64 {
        let kinds = [kinds.audio_output, self.image_output.is_some(), self.reasoning.is_some()];
        1 + 2 * kinds.into_iter().map(i64::from).sum::<i64>()
    }
}
