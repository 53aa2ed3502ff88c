//! What tokens cost, and the most a request can cost.

mod rates;
mod request;
mod usage;
mod version;

pub use rates::{Kinds, Rates};
pub use request::{Overrun, REQUEST_COST_MAX, Request, Size};
pub use usage::{Tier, TokenUsage};
pub use version::PriceVersion;

use crate::money::{Money, UnitPrice};

const MILLION: u64 = 1_000_000;

/// What other tiers than the usual cost, in millionths of what it costs; `None` if that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiers {
    pub flex: Option<u64>,
    pub priority: Option<u64>,
    pub batch: Option<u64>,
}

impl Tiers {
    pub fn factor(self, tier: Tier) -> Option<u64> {
        match tier {
            Tier::Usual => Some(MILLION),
            Tier::Flex => self.flex,
            Tier::Priority => self.priority,
            Tier::Batch => self.batch,
        }
    }
}

/// The price of a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub version: PriceVersion,
    pub rates: Rates,
    /// Of each request beside its tokens, in any tier.
    pub request: Money,
    /// Of each search of the web that the provider runs; `None` if that is not known.
    pub web_search: Option<Money>,
    /// Rates of the whole request once its input is longer than so many tokens.
    pub long_context: Option<(u64, Rates)>,
    pub tiers: Tiers,
}

/// What a request cost, by component; each is rounded up by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub input: Money,
    pub cached_input: Money,
    pub cache_write: Money,
    pub output: Money,
    /// Output that nobody was there to read any more.
    pub drained_output: Money,
    /// Of the request beside its tokens.
    pub request: Money,
    /// Of tools that the provider ran.
    pub tools: Money,
}

impl Cost {
    pub fn total(self) -> Money {
        self.input
            + self.cached_input
            + self.cache_write
            + self.output
            + self.drained_output
            + self.request
            + self.tools
    }
}

/// What the first `first` tokens cost of parts that follow each other, and what the rest.
fn split(parts: [(UnitPrice, u64); 4], first: u64) -> (Money, Money) {
    let mut left = first;
    let mut costs = (Money::ZERO, Money::ZERO);
    for (price, tokens) in parts {
        let before = tokens.min(left);
        left -= before;
        costs.0 += price.times(before);
        costs.1 += price.times(tokens - before);
    }
    costs
}

impl Price {
    /// Of what providers do for nothing.
    pub const FREE: Self = Self {
        version: PriceVersion::NONE,
        rates: Rates { output: Some(UnitPrice(0)), ..Rates::of_input(UnitPrice(0)) },
        request: Money::ZERO,
        web_search: None,
        long_context: None,
        tiers: Tiers { flex: None, priority: None, batch: None },
    };

    fn rates_for(&self, usage: TokenUsage) -> Rates {
        let rates = match self.long_context {
            Some((threshold, rates)) if usage.input > threshold => rates,
            _ => self.rates,
        };
        rates.scaled(usage.tier.and_then(|tier| self.tiers.factor(tier)).unwrap_or(MILLION))
    }

    /// By how much a request may be dearer than in the usual tier, in millionths: it may be served in that as well.
    fn factor(&self, kinds: Kinds) -> u64 {
        let may_serve = |tier: &Tier| kinds.any_tier || kinds.tier == Some(*tier);
        let others = [Tier::Flex, Tier::Priority, Tier::Batch].into_iter().filter(may_serve);
        others.filter_map(|tier| self.tiers.factor(tier)).fold(MILLION, u64::max)
    }

    /// Whether audio and images that there may be have a price. What costs nothing costs nothing in any form.
    pub fn prices(&self, kinds: Kinds) -> bool {
        let has = |may_be: bool, price: Option<UnitPrice>| !may_be || price.is_some();
        let rates = self.rates;
        self.is_free()
            || has(kinds.audio_input, rates.audio_input)
                && has(kinds.audio_output, rates.audio_output)
                && has(kinds.image_output, rates.image_output)
                && kinds.tier.is_none_or(|tier| self.tiers.factor(tier).is_some())
    }

    /// Whether all of it is zero, or has no price of its own.
    pub fn is_free(&self) -> bool {
        let is_free = |rates: Rates| {
            rates.dearest_input(Kinds::ALL) == UnitPrice(0)
                && rates.dearest_output(Kinds::ALL).unwrap_or_default() == UnitPrice(0)
        };
        self.request == Money::ZERO
            && self.web_search.unwrap_or_default() == Money::ZERO
            && is_free(self.rates)
            && self.long_context.is_none_or(|(_, rates)| is_free(rates))
    }

    pub fn cost(&self, usage: TokenUsage) -> Cost {
        let rates = self.rates_for(usage);
        let input = rates.input;
        let (heard, seen) = (usage.audio_input(), usage.image_input());
        let text = usage.uncached_input() - heard - seen;
        // In the order in which it is made, as far as that matters: reasoning comes first.
        let output = rates.output.unwrap_or_default();
        let [reasoned, spoken, drawn] = [usage.reasoning(), usage.audio_output(), usage.image_output()];
        let parts = [
            (rates.reasoning.unwrap_or(output), reasoned),
            (rates.audio_output.unwrap_or(output), spoken),
            (rates.image_output.unwrap_or(output), drawn),
            (output, usage.output - reasoned - spoken - drawn),
        ];
        let (read, drained) = split(parts, usage.output - usage.drained_output());
        Cost {
            input: input.times(text)
                + rates.audio_input.unwrap_or(input).times(heard)
                + rates.image_input.unwrap_or(input).times(seen),
            cached_input: rates.cached_input.unwrap_or(input).times(usage.cached_input()),
            cache_write: rates.cache_write().times(usage.cache_write() - usage.cache_write_1h())
                + rates.cache_write_1h.unwrap_or_else(|| rates.cache_write()).times(usage.cache_write_1h()),
            output: read,
            drained_output: drained,
            request: self.request,
            tools: self.searches(usage.web_searches),
        }
    }

    fn searches(&self, count: u64) -> Money {
        let nanos = i128::from(self.web_search.unwrap_or_default().nanos()) * i128::from(count);
        Money(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// The most that so many input and output tokens can cost, whatever part of the input is cached; `None` if there
    /// may be output and it has no price. `kinds`: what of it may have a price of its own.
    pub fn bound(&self, input_max: u64, output_max: u64, kinds: Kinds) -> Option<Bound> {
        let factor = self.factor(kinds);
        let at = |rates: Rates| {
            let rates = rates.scaled(factor);
            let output = if output_max == 0 { UnitPrice(0) } else { rates.dearest_output(kinds)? };
            let input = rates.dearest_input(kinds);
            // A component is rounded up by itself, so splitting the input can add a nano-dollar for each of three, and
            // splitting the output one for two; each kind of its own can add another, and of output two. What costs
            // nothing is nothing in as many parts as there are.
            let own_input = [kinds.kept_1h, kinds.audio_input, kinds.image_input];
            let inputs = own_input.into_iter().map(i64::from).sum::<i64>();
            let rounding = |price: UnitPrice, tokens: u64, most: i64| {
                Money(if tokens > 0 && price > UnitPrice(0) { most } else { 0 })
            };
            Some(Bound {
                input: input.times(input_max) + rounding(input, input_max, 2 + inputs),
                output: output.times(output_max) + rounding(output, output_max, rates.output_rounding(kinds)),
                request: self.request,
                tools: Money::ZERO,
            })
        };
        let usual = at(self.rates)?;
        match self.long_context {
            Some((threshold, rates)) if input_max > threshold => {
                let long = at(rates)?;
                Some(Bound {
                    input: usual.input.max(long.input),
                    output: usual.output.max(long.output),
                    request: self.request,
                    tools: Money::ZERO,
                })
            }
            _ => Some(usual),
        }
    }

    /// The most output that, with so much input, costs no more than `money`; `None` if not even the input fits.
    fn output_within(&self, input_max: u64, money: Money, kinds: Kinds) -> Option<u64> {
        let one = self.bound(input_max, 1, kinds)?;
        let left = money.checked_sub(one.input)?.checked_sub(one.request)?;
        let factor = self.factor(kinds);
        let dearest_output = |rates: Rates| rates.scaled(factor).dearest_output(kinds);
        let dearest = match self.long_context {
            Some((threshold, rates)) if input_max > threshold => {
                dearest_output(self.rates)?.max(dearest_output(rates)?)
            }
            _ => dearest_output(self.rates)?,
        };
        if dearest == UnitPrice(0) {
            return Some(u64::MAX);
        }
        // As many nano-dollars are kept for rounding as in the bound.
        let rounding = Money(self.rates.output_rounding(kinds));
        let pico = i128::from(left.checked_sub(rounding)?.nanos()) * 1_000;
        u64::try_from(pico / i128::from(dearest.0)).ok()
    }
}

/// The most a request can cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub input: Money,
    pub output: Money,
    /// Beside tokens.
    pub request: Money,
    /// Of tools that the provider runs.
    pub tools: Money,
}

impl Bound {
    pub fn total(self) -> Money {
        self.input + self.output + self.request + self.tools
    }

    fn within(self, ceiling: Money) -> Self {
        let request = self.request.min(ceiling);
        let tools = self.tools.min(ceiling - request);
        let input = self.input.min(ceiling - request - tools);
        Self { input, output: self.output.min(ceiling - request - tools - input), request, tools }
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
            cache_write_1h: Some(UnitPrice(input * 2)),
            output: Some(UnitPrice(output)),
            reasoning: Some(UnitPrice(output * 2)),
            audio_input: Some(UnitPrice(input * 12)),
            audio_output: Some(UnitPrice(output * 5)),
            image_input: Some(UnitPrice(input * 3)),
            image_output: Some(UnitPrice(output * 4)),
        };
        Price {
            version: PriceVersion::NONE,
            request: Money(70),
            web_search: Some(Money(10_000_000)),
            rates: rates(2_500_000, 250_000, 15_000_000),
            long_context: Some((272_000, rates(5_000_000, 500_000, 22_500_000))),
            tiers: Tiers { flex: Some(500_000), priority: Some(1_750_001), batch: Some(400_000) },
        }
    }

    #[test]
    fn each_component_is_charged_at_its_own_rate() {
        let usage = TokenUsage {
            input: 1_000,
            cached_input: 400,
            cache_write: 100,
            cache_write_1h: 20,
            audio_input: 100,
            image_input: 10,
            output: 17,
            reasoning: 2,
            audio_output: 7,
            image_output: Some(5),
            drained_output: 4,
            web_searches: 3,
            ..TokenUsage::default()
        };
        let cost = price().cost(usage);
        assert_eq!(cost.input, Money(390 * 2_500 + 3_000_000 + 75_000));
        assert_eq!(cost.cached_input, Money(100_000));
        assert_eq!(cost.cache_write, Money(250_000 + 100_000));
        assert_eq!(cost.output, Money(2 * 30_000 + 7 * 75_000 + 4 * 60_000));
        assert_eq!(cost.drained_output, Money(60_000 + 3 * 15_000));
        assert_eq!((cost.request, cost.tools), (Money(70), Money(30_000_000)));
    }

    #[test]
    fn a_tier_has_a_price_of_its_own_if_it_is_known() {
        let usage = |tier| TokenUsage { input: 1_000, output: 10, tier, ..TokenUsage::default() };
        let total = |tier| price().cost(usage(tier)).total();
        assert_eq!(total(None), total(Some(Tier::Usual)));
        let tokens = |tier| total(tier).nanos() - 70;
        assert_eq!(tokens(Some(Tier::Flex)) * 2, tokens(None));
        assert_eq!(tokens(Some(Tier::Batch)) * 5, tokens(None) * 2);
        assert!(total(Some(Tier::Priority)) > total(None));
        let asked = |tier| Kinds { tier: Some(tier), ..Kinds::default() };
        assert!(price().prices(asked(Tier::Flex)));
        assert!(!Price { tiers: Tiers::default(), ..price() }.prices(asked(Tier::Flex)));
        let request = Request {
            price: Some(price()),
            size: Size { kinds: asked(Tier::Priority), ..Size::without_output(Some(1_000)) },
            ceiling: None,
        };
        assert!(request.cost(usage(None)).total() > request.cost(usage(Some(Tier::Usual))).total());
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
        assert_eq!(price.bound(10, 1, Kinds::default()), None);
        assert_eq!(price.bound(10, 0, Kinds::default()).unwrap().output, Money::ZERO);
    }

    #[test]
    fn a_ceiling_bounds_what_nothing_else_does_and_prices_nothing() {
        let size = Size { output_each: None, output_each_max: None, ..Size::without_output(Some(10)) };
        let request = Request { price: Some(price()), size, ceiling: None };
        assert_eq!(request.bound(), None);
        let flat = Request { ceiling: Some(Money(500)), ..request };
        assert_eq!(flat.bound().unwrap().total(), Money(500));
        assert_eq!(Request { price: None, ..flat }.bound(), None);
        let dear = Request { size: Size::without_output(Some(1_000)), ..flat };
        assert_eq!(dear.bound().unwrap().total(), Money(500));
    }

    #[test]
    fn a_model_that_overran_its_limit_is_bounded_by_what_it_does_and_by_what_it_can() {
        let size = Size {
            output_each: Some(100),
            choices: 2,
            input_overrun: Overrun { ppm: 1_500_000, ..Overrun::NONE },
            output_overrun: Overrun { ppm: 2_500_000, ..Overrun::NONE },
            input_max: Some(1_200),
            output_each_max: Some(400),
            ..Size::without_output(Some(1_000))
        };
        assert_eq!((size.input_bound(), size.output_bound()), (Some(1_200), Some(500)));
        let with = |overrun| Size { output_overrun: overrun, ..size }.output_bound();
        let wild = Overrun { ppm: 10_000_000, ..Overrun::NONE };
        assert_eq!(with(wild), Some(800));
        assert_eq!(
            with(Overrun { seen: 450, ..wild }),
            Some(900),
            "it was able to more than it is said to be"
        );
        assert_eq!(
            Size { output_each_max: Some(50), ..size }.output_bound(),
            Some(200),
            "never below what it is told"
        );
    }

    #[test]
    fn what_is_free_has_no_price_but_zero() {
        let rates = Rates::of_input(UnitPrice(0));
        let free = Price { rates, ..Price::FREE };
        let cached = Rates { cached_input: Some(UnitPrice(1)), ..rates };
        assert!(free.is_free() && !price().is_free());
        assert!(!Price { long_context: Some((1, cached)), ..free }.is_free());
        assert!(!Price { request: Money(1), ..free }.is_free());
        let size = Size::without_output(None);
        assert!(Request { price: Some(free), size, ceiling: None }.is_free());
        let makes = Size { output_each: Some(5), ..size };
        assert!(
            !Request { price: Some(free), size: makes, ceiling: None }.is_free(),
            "its output has no price"
        );
        assert!(!Request { price: None, size, ceiling: None }.is_free());
    }

    #[test]
    fn a_few_tokens_too_many_are_no_factor() {
        assert_eq!(Overrun::of(16, 1), Overrun { tokens: 15, seen: 16, ..Overrun::NONE });
        assert_eq!(Overrun::of(3_000, 2_000), Overrun { ppm: 1_500_000, tokens: 0, seen: 3_000 });
        assert_eq!((Overrun::of(5, 5), Overrun::of(0, 0)), (Overrun::NONE, Overrun::NONE));
        let small = Overrun::of(16, 1);
        assert_eq!((small.over(1, None), small.over(4_000, None)), (16, 4_015));
        assert_eq!((small.told_within(16), small.told_within(3)), (1, 0));
    }

    #[test]
    fn a_contradictory_report_counts_no_token_twice() {
        let usage = TokenUsage {
            input: 10,
            cached_input: 50,
            cache_write: 50,
            cache_write_1h: 50,
            audio_input: 50,
            image_input: 50,
            output: 0,
            reasoning: 50,
            audio_output: 50,
            image_output: Some(50),
            drained_output: 5,
            ..TokenUsage::default()
        };
        assert_eq!((usage.drained_output(), usage.cache_write_1h()), (0, 0));
        assert_eq!((usage.image_input(), usage.image_output(), usage.reasoning()), (0, 0, 0));
        assert_eq!((usage.audio_input(), usage.audio_output()), (0, 0));
        assert_eq!((usage.uncached_input(), usage.cached_input(), usage.cache_write()), (0, 10, 0));
    }

    proptest! {
        #[test]
        fn no_actual_within_the_token_bounds_costs_more_than_the_bound(
            input_max in 0..400_000u64, output_max in 0..200_000u64,
            input in 0..=100u64, cached in 0..=100u64, written in 0..=100u64, output in 0..=100u64,
            drained in 0..=100u64, kept in 0..=100u64, odd in 0..1000i64,
        ) {
            let mut price = price();
            price.rates.input.0 += odd;
            price.rates.cache_write_1h = Some(UnitPrice(5_000_000 - odd));
            price.rates.output = Some(UnitPrice(15_000_000 + odd));
            let input = input_max * input / 100;
            let cached_input = input * cached / 100;
            let cache_write = (input - cached_input) * written / 100;
            let output = output_max * output / 100;
            let drained_output = output * drained / 100;
            let reasoning = output * kept / 100;
            let usage =
                TokenUsage { input, cached_input, cache_write, output, reasoning, drained_output, ..TokenUsage::default() };
            let bound = |kinds| price.bound(input_max, output_max, kinds).unwrap().total();
            prop_assert!(price.cost(usage).total() <= bound(Kinds::default()));
            let usage = TokenUsage {
                cache_write_1h: cache_write * kept / 100,
                audio_input: input * kept / 200,
                image_input: input * kept / 300,
                audio_output: output * kept / 150,
                image_output: Some(output * kept / 400),
                reasoning: output * kept / 500,
                ..usage
            };
            prop_assert!(price.cost(usage).total() <= bound(Kinds::ALL));
            for tier in [Tier::Usual, Tier::Flex, Tier::Priority] {
                let asked = Kinds { tier: Some(tier), ..Kinds::ALL };
                for served in [Tier::Usual, tier] {
                    let usage = TokenUsage { tier: Some(served), ..usage };
                    prop_assert!(price.cost(usage).total() <= bound(asked), "{tier:?} served as {served:?}");
                }
                let usage = TokenUsage { tier: Some(tier), ..usage };
                prop_assert!(price.cost(usage).total() <= bound(Kinds { any_tier: true, ..Kinds::ALL }), "{tier:?}");
            }
        }

        #[test]
        fn a_clamped_request_fits_and_one_token_more_would_not(
            input in 0..400_000u64, each in 1..200_000u64, choices in 1..10u64, extra in 0..1_000u64,
            ppm in 1_000_000..3_000_000u64, tokens in 0..2_000u64, money in 0..20_000_000_000i64, least in 0..500u64,
        ) {
            let size = Size {
                output_each: Some(each), output_each_max: None, choices, output_extra: extra,
                input_overrun: Overrun { ppm: 1_100_000, ..Overrun::NONE },
                output_overrun: Overrun { ppm, tokens, seen: 0 }, ..Size::without_output(Some(input))
            };
            let request = Request { price: Some(price()), size, ceiling: None };
            // Unscaling and rounding may leave a few tokens unused, never a relevant part.
            let with = |told: u64| Request { size: Size { output_each: Some(told + 3), ..size }, ..request };
            let is_over = |request: Request| request.bound().unwrap().total() > Money(money);
            if let Some(clamped) = request.clamped(Money(money), least) {
                prop_assert!(!is_over(clamped));
                let told = clamped.size.output_each.unwrap();
                prop_assert!(told >= least.max(1) && told <= each);
                prop_assert!(told == each || is_over(with(told)));
            } else {
                prop_assert!(each < least.max(1) + 3 || is_over(with(least.max(1))));
            }
        }
    }
}
