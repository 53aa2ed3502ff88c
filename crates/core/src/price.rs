//! What tokens cost, and the most a request can cost.

use crate::money::{Money, UnitPrice};

/// Tokens as an upstream reports them. `input` includes the cached and the cache-write tokens, as on OpenAI's wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub input: u64,
    pub cached_input: u64,
    pub cache_write: u64,
    pub output: u64,
}

impl TokenUsage {
    /// Input that was neither read from nor written to the cache. A report that contradicts itself is read so that
    /// no part counts twice.
    pub fn uncached_input(self) -> u64 {
        self.input.saturating_sub(self.cached_input()).saturating_sub(self.cache_write())
    }

    pub fn cached_input(self) -> u64 {
        self.cached_input.min(self.input)
    }

    pub fn cache_write(self) -> u64 {
        self.cache_write.min(self.input - self.cached_input())
    }
}

/// Unit prices. What has no price of its own costs what plain input costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub input: UnitPrice,
    pub cached_input: Option<UnitPrice>,
    pub cache_write: Option<UnitPrice>,
    /// `None` for a model known only by its input, as embeddings are: it prices no request that makes output.
    pub output: Option<UnitPrice>,
}

impl Rates {
    fn dearest_input(self) -> UnitPrice {
        self.input.max(self.cached_input.unwrap_or_default()).max(self.cache_write.unwrap_or_default())
    }
}

/// The price of a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub rates: Rates,
    /// Rates of the whole request once its input is longer than so many tokens.
    pub long_context: Option<(u64, Rates)>,
}

/// What a request cost, by component; each is rounded up by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub input: Money,
    pub cached_input: Money,
    pub cache_write: Money,
    pub output: Money,
}

impl Cost {
    pub fn total(self) -> Money {
        self.input + self.cached_input + self.cache_write + self.output
    }
}

impl Price {
    fn rates_for(&self, input: u64) -> Rates {
        match self.long_context {
            Some((threshold, rates)) if input > threshold => rates,
            _ => self.rates,
        }
    }

    pub fn cost(&self, usage: TokenUsage) -> Cost {
        let rates = self.rates_for(usage.input);
        Cost {
            input: rates.input.times(usage.uncached_input()),
            cached_input: rates.cached_input.unwrap_or(rates.input).times(usage.cached_input()),
            cache_write: rates.cache_write.unwrap_or(rates.input).times(usage.cache_write()),
            output: rates.output.unwrap_or_default().times(usage.output),
        }
    }

    /// The most that so many input and output tokens can cost, whatever part of the input is cached; `None` if there
    /// may be output and it has no price.
    pub fn bound(&self, input_max: u64, output_max: u64) -> Option<Bound> {
        let at = |rates: Rates| {
            let output = if output_max == 0 { UnitPrice(0) } else { rates.output? };
            Some(Bound {
                // A component is rounded up by itself, so splitting the input can add a nano-dollar for each of three.
                input: rates.dearest_input().times(input_max) + Money(if input_max > 0 { 2 } else { 0 }),
                output: output.times(output_max),
            })
        };
        let usual = at(self.rates)?;
        match self.long_context {
            Some((threshold, rates)) if input_max > threshold => {
                let long = at(rates)?;
                Some(Bound { input: usual.input.max(long.input), output: usual.output.max(long.output) })
            }
            _ => Some(usual),
        }
    }
}

/// The most a request can cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub input: Money,
    pub output: Money,
}

impl Bound {
    pub fn total(self) -> Money {
        self.input + self.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price() -> Price {
        let rates = |input, cached, output| Rates {
            input: UnitPrice(input),
            cached_input: Some(UnitPrice(cached)),
            cache_write: Some(UnitPrice(input * 5 / 4)),
            output: Some(UnitPrice(output)),
        };
        Price {
            rates: rates(2_500_000, 250_000, 15_000_000),
            long_context: Some((272_000, rates(5_000_000, 500_000, 22_500_000))),
        }
    }

    #[test]
    fn each_component_is_charged_at_its_own_rate() {
        let usage = TokenUsage { input: 1_000, cached_input: 400, cache_write: 100, output: 10 };
        let cost = price().cost(usage);
        assert_eq!(cost.input, Money(1_250_000));
        assert_eq!(cost.cached_input, Money(100_000));
        assert_eq!(cost.cache_write, Money(312_500));
        assert_eq!(cost.output, Money(150_000));
    }

    #[test]
    fn a_long_context_reprices_the_whole_request() {
        let usage = |input| TokenUsage { input, output: 1, ..TokenUsage::default() };
        assert_eq!(price().cost(usage(272_000)).input, Money(680_000_000));
        assert_eq!(price().cost(usage(272_001)).input, Money(1_360_005_000));
    }

    #[test]
    fn output_without_a_price_cannot_be_bounded() {
        let mut price = price();
        price.rates.output = None;
        assert_eq!(price.bound(10, 1), None);
        assert_eq!(price.bound(10, 0).unwrap().output, Money::ZERO);
    }

    #[test]
    fn a_contradictory_report_counts_no_token_twice() {
        let usage = TokenUsage { input: 10, cached_input: 50, cache_write: 50, output: 0 };
        assert_eq!((usage.uncached_input(), usage.cached_input(), usage.cache_write()), (0, 10, 0));
    }

    proptest! {
        #[test]
        fn no_actual_within_the_token_bounds_costs_more_than_the_bound(
            input_max in 0..400_000u64, output_max in 0..200_000u64,
            input in 0..=100u64, cached in 0..=100u64, written in 0..=100u64, output in 0..=100u64,
            odd in 0..1000i64,
        ) {
            let mut price = price();
            price.rates.input.0 += odd;
            price.rates.output = Some(UnitPrice(15_000_000 + odd));
            let input = input_max * input / 100;
            let cached_input = input * cached / 100;
            let cache_write = (input - cached_input) * written / 100;
            let usage = TokenUsage { input, cached_input, cache_write, output: output_max * output / 100 };
            prop_assert!(price.cost(usage).total() <= price.bound(input_max, output_max).unwrap().total());
        }
    }
}
