//! What models cost and how much they take: compiled in, and what an operator says instead.

mod embedded;
mod figures;
mod schedule;

pub use embedded::{Embedded, embedded};
pub use figures::{Figures, FiguresPatch};
pub use schedule::{OwnPrice, Schedule, Versions, in_force};

use crate::money::Money;

/// How much a model takes and makes, as [`ModelFacts`] has it; `None` is not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub context_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub image_tokens: Option<u64>,
    pub request_cost_max: Option<Money>,
}

/// The limits in force of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// Input and output together.
    pub context_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    /// Whether that is an operator's limit, which upstreams are told, and not only what the provider publishes.
    pub is_max_output_own: bool,
    /// The most tokens that one image is counted as.
    pub image_tokens: Option<u64>,
    /// What an operator says that no request costs more than.
    pub request_cost_max: Option<Money>,
}

impl Limits {
    /// What an operator says, over what is known without one.
    pub fn over(self, embedded: Self) -> ModelFacts {
        ModelFacts {
            context_tokens: self.context_tokens.or(embedded.context_tokens),
            max_output_tokens: self.max_output_tokens.or(embedded.max_output_tokens),
            is_max_output_own: self.max_output_tokens.is_some(),
            image_tokens: self.image_tokens.or(embedded.image_tokens),
            request_cost_max: self.request_cost_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::UnitPrice;
    use crate::price::{Kinds, PriceVersion};
    use crate::time::Timestamp;

    #[test]
    fn an_own_price_replaces_the_embedded_one_with_its_discounts() {
        let own = Figures { input_price: Some(UnitPrice(0)), ..Figures::default() };
        let known = embedded("gpt-4o-mini").at(Timestamp(0));
        let figures = own.over(known);
        assert_eq!(
            (figures.input_price, figures.cached_input_price, figures.output_price),
            (Some(UnitPrice(0)), None, Some(UnitPrice(600_000)))
        );
        let alone = own.over(Figures::default()).price(PriceVersion::NONE).unwrap();
        assert_eq!(alone.bound(1, 1, Kinds::default()), None, "half a price bounds no output");
        let cached = Figures { cached_input_price: Some(UnitPrice(1)), ..Figures::default() };
        let known = embedded("gpt-5.4").at(Timestamp(0));
        assert_eq!(cached.over(known), Figures { cached_input_price: Some(UnitPrice(1)), ..known });
    }

    #[test]
    fn an_own_limit_goes_before_the_embedded_one() {
        let own = Limits { max_output_tokens: Some(10), ..Limits::default() };
        let facts = own.over(embedded("gpt-4o-mini").limits);
        assert_eq!(facts.context_tokens, Some(128_000));
        assert_eq!((facts.max_output_tokens, facts.is_max_output_own), (Some(10), true));
    }
}
