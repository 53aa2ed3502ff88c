//! What is known of models without being told: prices, context windows, output limits. Compiled in from
//! `data/prices.tsv`; an operator's own figures go before it.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::money::{Money, UnitPrice};
use crate::price::{Price, Rates, Tiers};

/// What a model costs and how much it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// `None`: unpriced. Requests are then recorded with their usage, and refused under a hard limit.
    pub price: Option<Price>,
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

/// What an operator says of a model; `None` leaves the embedded figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelOverride {
    pub input_price: Option<UnitPrice>,
    pub cached_input_price: Option<UnitPrice>,
    pub cache_write_price: Option<UnitPrice>,
    pub cache_write_1h_price: Option<UnitPrice>,
    pub output_price: Option<UnitPrice>,
    pub audio_input_price: Option<UnitPrice>,
    pub audio_output_price: Option<UnitPrice>,
    /// What other tiers cost, in millionths of the usual price.
    pub tiers: Tiers,
    pub context_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub image_tokens: Option<u64>,
    pub request_cost_max: Option<Money>,
}

struct Book {
    exact: HashMap<&'static str, ModelFacts>,
    /// Longest first.
    prefixes: Vec<(&'static str, ModelFacts)>,
}

static BOOK: LazyLock<Book> = LazyLock::new(|| {
    let mut book = Book { exact: HashMap::new(), prefixes: Vec::new() };
    for line in include_str!("../data/prices.tsv").lines().filter(|line| !line.starts_with('#')) {
        let (name, facts) = read_line(line).expect("the embedded price data is whole, as a test checks");
        match name.strip_suffix('*') {
            Some(prefix) => book.prefixes.push((prefix, facts)),
            None => {
                book.exact.insert(name, facts);
            }
        }
    }
    book.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    book
});

/// The embedded facts about a model, by its id: exact, dated (`NAME-2026-01-31`, `NAME-20260131`) or by prefix.
pub fn embedded(model: &str) -> ModelFacts {
    let exact = |name: &str| BOOK.exact.get(name).copied();
    let dated = |pattern: &str| {
        let (name, date) = model.split_at_checked(model.len().checked_sub(pattern.len())?)?;
        let is_date = date.bytes().zip(pattern.bytes()).all(|(byte, expected)| match expected {
            b'-' => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
        if is_date { exact(&format!("{name}{pattern}")) } else { None }
    };
    let by_prefix =
        || BOOK.prefixes.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|(_, facts)| *facts);
    exact(model)
        .or_else(|| dated("-YYYY-MM-DD"))
        .or_else(|| dated("-YYYYMMDD"))
        .or_else(by_prefix)
        .unwrap_or_default()
}

impl ModelOverride {
    /// The facts in force: the override where it says something, else the embedded ones.
    ///
    /// An own input or output price replaces the embedded discounts and long-context rates, so that it never mixes
    /// with those of a provider.
    pub fn facts(&self, embedded: ModelFacts) -> ModelFacts {
        let known = embedded.price.map(|price| price.rates);
        let own = self.input_price.is_some() || self.output_price.is_some();
        let others = [
            self.cached_input_price,
            self.cache_write_price,
            self.cache_write_1h_price,
            self.audio_input_price,
            self.audio_output_price,
        ];
        let touched = own || others.iter().any(Option::is_some);
        let price = if touched {
            self.rates(known, own).map(|rates| Price {
                rates,
                long_context: embedded.price.and_then(|price| price.long_context).filter(|_| !own),
                tiers: Tiers::default(),
            })
        } else {
            embedded.price
        };
        // Nobody publishes these where they could be read.
        let price = price.map(|price| Price { tiers: self.tiers, ..price });
        ModelFacts {
            price,
            context_tokens: self.context_tokens.or(embedded.context_tokens),
            max_output_tokens: self.max_output_tokens.or(embedded.max_output_tokens),
            is_max_output_own: self.max_output_tokens.is_some(),
            image_tokens: self.image_tokens.or(embedded.image_tokens),
            request_cost_max: self.request_cost_max,
        }
    }

    fn rates(&self, known: Option<Rates>, own: bool) -> Option<Rates> {
        let inherited = |pick: fn(Rates) -> Option<UnitPrice>| if own { None } else { known.and_then(pick) };
        Some(Rates {
            input: self.input_price.or(known.map(|rates| rates.input))?,
            cached_input: self.cached_input_price.or_else(|| inherited(|rates| rates.cached_input)),
            cache_write: self.cache_write_price.or_else(|| inherited(|rates| rates.cache_write)),
            cache_write_1h: self.cache_write_1h_price.or_else(|| inherited(|rates| rates.cache_write_1h)),
            output: self.output_price.or(known.and_then(|rates| rates.output)),
            audio_input: self.audio_input_price.or_else(|| inherited(|rates| rates.audio_input)),
            audio_output: self.audio_output_price.or_else(|| inherited(|rates| rates.audio_output)),
        })
    }
}

fn read_line(line: &'static str) -> Option<(&'static str, ModelFacts)> {
    let cells: Vec<&str> = line.split('\t').collect();
    let [name, usual @ .., context, max_output, image, heard, spoken] = cells.as_slice() else { return None };
    let [input, cached, write, write_1h, output, threshold, long @ ..] = usual else { return None };
    let [long_input, long_cached, long_write, long_write_1h, long_output] = long else { return None };
    let number = |cell: &str| if cell.is_empty() { Some(None) } else { cell.parse::<u64>().ok().map(Some) };
    let audio =
        |cell: &str| if cell.is_empty() { Some(None) } else { UnitPrice::parse_per_million(cell).map(Some) };
    let (audio_input, audio_output) = (audio(heard)?, audio(spoken)?);
    let usual = Rates { audio_input, audio_output, ..read_rates([input, cached, write, write_1h, output])? };
    let long_context = match number(threshold)? {
        Some(threshold) => {
            let long = [long_input, long_cached, long_write, long_write_1h, long_output];
            Some((threshold, read_rates(long.map(|cell| *cell))?))
        }
        None => None,
    };
    let facts = ModelFacts {
        price: Some(Price { rates: usual, long_context, tiers: Tiers::default() }),
        context_tokens: number(context)?,
        max_output_tokens: number(max_output)?,
        is_max_output_own: false,
        image_tokens: number(image)?,
        request_cost_max: None,
    };
    Some((name, facts))
}

fn read_rates([input, cached, write, write_1h, output]: [&str; 5]) -> Option<Rates> {
    let optional =
        |cell: &str| if cell.is_empty() { Some(None) } else { UnitPrice::parse_per_million(cell).map(Some) };
    Some(Rates {
        input: UnitPrice::parse_per_million(input)?,
        cached_input: optional(cached)?,
        cache_write: optional(write)?,
        cache_write_1h: optional(write_1h)?,
        output: optional(output)?,
        audio_input: None,
        audio_output: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::Kinds;

    #[test]
    fn every_embedded_line_is_read() {
        let lines = include_str!("../data/prices.tsv").lines().filter(|line| !line.starts_with('#'));
        assert!(lines.map(read_line).all(|line| line.is_some()));
        assert!(BOOK.exact.len() > 100);
    }

    #[test]
    fn a_model_is_found_by_name_date_or_prefix_and_otherwise_unpriced() {
        let mini = embedded("gpt-4o-mini");
        assert_eq!(mini.price.unwrap().rates.input, UnitPrice(150_000));
        assert_eq!((mini.context_tokens, mini.max_output_tokens), (Some(128_000), Some(16_384)));
        assert_eq!((mini.image_tokens, embedded("gpt-3.5-turbo").image_tokens), (Some(48_169), None));
        assert_eq!(embedded("gpt-6-astra-2027-01-31"), embedded("gpt-6-astra"));
        assert!(embedded("ft:gpt-4o-2024-08-06:acme").price.is_some());
        let rates = embedded("claude-sonnet-5-20270131").price.unwrap().rates;
        assert_eq!(
            (rates.cache_write, rates.cache_write_1h),
            (Some(UnitPrice(2_500_000)), Some(UnitPrice(4_000_000)))
        );
        for unknown in ["gpt-4o-2031-01-01", "llama3.1", "", "gpt-4o-mini-", "ключ-ключ-ключ"] {
            assert_eq!(embedded(unknown).price, None, "{unknown}");
        }
    }

    #[test]
    fn an_own_price_replaces_the_embedded_one_with_its_discounts() {
        let own = ModelOverride { input_price: Some(UnitPrice(0)), ..ModelOverride::default() };
        let facts = own.facts(embedded("gpt-4o-mini"));
        let rates = facts.price.unwrap().rates;
        assert_eq!(
            (rates.input, rates.cached_input, rates.output),
            (UnitPrice(0), None, Some(UnitPrice(600_000)))
        );
        assert_eq!(facts.context_tokens, Some(128_000));
        let alone = own.facts(ModelFacts::default()).price.unwrap();
        assert_eq!(alone.bound(1, 1, Kinds::default()), None, "half a price bounds no output");
    }

    #[test]
    fn figures_that_are_not_prices_leave_the_price_alone() {
        let limits = ModelOverride { max_output_tokens: Some(10), ..ModelOverride::default() };
        assert_eq!(limits.facts(embedded("gpt-5.4")).price, embedded("gpt-5.4").price);
        let cached = ModelOverride { cached_input_price: Some(UnitPrice(1)), ..ModelOverride::default() };
        let price = cached.facts(embedded("gpt-5.4")).price.unwrap();
        assert_eq!(price.rates.cached_input, Some(UnitPrice(1)));
        assert_eq!(price.rates.input, embedded("gpt-5.4").price.unwrap().rates.input);
    }
}
