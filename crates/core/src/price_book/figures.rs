//! What can be said of a model's price, as people write it: each figure has a name, and amounts are decimal texts.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::money::{Money, UnitPrice};
use crate::price::{Price, PriceVersion, Rates, Tiers};

/// A kind of figure: how its text is read and written.
trait Figure: Copy {
    /// What is expected of its text.
    const EXPECTED: &str;
    fn parse(text: &str) -> Option<Self>;
    fn text(self) -> String;

    fn value(self) -> Value {
        Value::String(self.text())
    }
}

impl Figure for UnitPrice {
    const EXPECTED: &str = "US dollars per million tokens as a decimal text such as \"0.15\", with at most 6 places and at most 1000000";

    fn parse(text: &str) -> Option<Self> {
        const MAX: UnitPrice = UnitPrice(1_000_000_000_000);
        Self::parse_per_million(text).filter(|price| *price <= MAX)
    }

    fn text(self) -> String {
        self.per_million()
    }
}

impl Figure for Money {
    const EXPECTED: &str =
        "US dollars as a decimal text such as \"0.01\", with at most 9 places and at most 10000";

    fn parse(text: &str) -> Option<Self> {
        const MAX: Money = Money(10_000_000_000_000);
        Self::parse(text).filter(|fee| (Self::ZERO..=MAX).contains(fee))
    }

    fn text(self) -> String {
        self.short()
    }
}

/// A multiple of the usual price, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor(pub u64);

impl Figure for Factor {
    const EXPECTED: &str = "a multiple of the usual price as a decimal text such as \"0.5\", with at most 6 places and at most 100";

    fn parse(text: &str) -> Option<Self> {
        // Millionths as a decimal are what dollars per million tokens are.
        let ppm = UnitPrice::parse_per_million(text).and_then(|ppm| u64::try_from(ppm.0).ok());
        ppm.filter(|ppm| *ppm <= 100_000_000).map(Self)
    }

    fn text(self) -> String {
        UnitPrice(i64::try_from(self.0).unwrap_or(i64::MAX)).per_million()
    }
}

/// So many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens(pub u64);

impl Figure for Tokens {
    const EXPECTED: &str = "a number of tokens from 1 to 100000000";

    fn parse(text: &str) -> Option<Self> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|tokens| is_plain && (1..=100_000_000).contains(tokens)).map(Self)
    }

    fn text(self) -> String {
        self.0.to_string()
    }

    fn value(self) -> Value {
        Value::from(self.0)
    }
}

macro_rules! figures {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty,)*) => {
        /// What is said of a model's price; `None` is not said. In JSON each figure is a decimal text or null.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Figures {
            $($(#[doc = $doc])+ pub $name: Option<$kind>,)*
        }

        impl Figures {
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Every figure as it stands in JSON.
            pub fn values(&self) -> [(&'static str, Option<Value>); Self::NAMES.len()] {
                [$((stringify!($name), self.$name.map(Figure::value))),*]
            }

            /// Sets one by its name; complains of what was expected.
            fn set(&mut self, name: &str, text: Option<&str>) -> std::result::Result<(), &'static str> {
                match name {
                    $(stringify!($name) => {
                        self.$name = match text {
                            Some(text) => Some(Figure::parse(text).ok_or(<$kind as Figure>::EXPECTED)?),
                            None => None,
                        };
                        Ok(())
                    })*
                    _ => Err("the name of a price"),
                }
            }

            /// Each figure that is said here, and of the rest what is said there.
            fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }
        }

        const DOCS: &[&str] = &[$(concat!($($doc),+)),*];
    };
}

figures! {
    /// Of input; the prices of tokens are in US dollars per million.
    input_price: UnitPrice,
    /// Of input that was read from the cache.
    cached_input_price: UnitPrice,
    /// Of input that was written to it.
    cache_write_price: UnitPrice,
    /// Of input that was written to it for an hour.
    cache_write_1h_price: UnitPrice,
    /// Of output.
    output_price: UnitPrice,
    /// Of output that is reasoning, where it has a price of its own.
    reasoning_price: UnitPrice,
    /// Of input that is heard.
    audio_input_price: UnitPrice,
    /// Of output that is spoken.
    audio_output_price: UnitPrice,
    /// Of input that is seen, where it has a price of its own.
    image_input_price: UnitPrice,
    /// Of output that is drawn.
    image_output_price: UnitPrice,
    /// Of each request beside its tokens, in US dollars.
    request_price: Money,
    /// Of each search of the web that the provider runs, in US dollars.
    web_search_price: Money,
    /// With more input tokens than this the rates of a long context apply to the whole request.
    long_context_above: Tokens,
    /// Of input in a long context.
    long_input_price: UnitPrice,
    /// Of input in a long context that was read from the cache.
    long_cached_input_price: UnitPrice,
    /// Of input in a long context that was written to the cache.
    long_cache_write_price: UnitPrice,
    /// Of input in a long context that was written to the cache for an hour.
    long_cache_write_1h_price: UnitPrice,
    /// Of output in a long context.
    long_output_price: UnitPrice,
    /// What the flex tier costs, as a multiple of the usual price.
    flex_price_factor: Factor,
    /// What the priority tier costs, as a multiple of the usual price.
    priority_price_factor: Factor,
    /// What a batch costs, as a multiple of the usual price.
    batch_price_factor: Factor,
}

impl Figures {
    /// The figures in force where these are an operator's and `embedded` is what is known without one.
    ///
    /// An own input or output price replaces the embedded discounts, long-context rates and factors, so that it never
    /// mixes with those of a provider.
    #[must_use]
    pub fn over(self, embedded: Self) -> Self {
        let is_own = self.input_price.is_some() || self.output_price.is_some();
        let kept = if is_own {
            Self { input_price: embedded.input_price, output_price: embedded.output_price, ..Self::default() }
        } else {
            embedded
        };
        self.or(kept)
    }

    /// The price that they make; `None` if they leave the model unpriced.
    pub fn price(&self, version: PriceVersion) -> Option<Price> {
        let rates = Rates {
            input: self.input_price?,
            cached_input: self.cached_input_price,
            cache_write: self.cache_write_price,
            cache_write_1h: self.cache_write_1h_price,
            output: self.output_price,
            reasoning: self.reasoning_price,
            audio_input: self.audio_input_price,
            audio_output: self.audio_output_price,
            image_input: self.image_input_price,
            image_output: self.image_output_price,
        };
        // What has no rate of its own in a long context is not cheaper there, and what is never dearer costs the same.
        let long = |own: Option<UnitPrice>, usual: Option<UnitPrice>| own.or(usual);
        let long_context = self.long_context_above.map(|Tokens(above)| {
            let rates = Rates {
                input: self.long_input_price.unwrap_or(rates.input),
                cached_input: long(self.long_cached_input_price, rates.cached_input),
                cache_write: long(self.long_cache_write_price, rates.cache_write),
                cache_write_1h: long(self.long_cache_write_1h_price, rates.cache_write_1h),
                output: long(self.long_output_price, rates.output),
                ..rates
            };
            (above, rates)
        });
        let ppm = |factor: Option<Factor>| factor.map(|Factor(ppm)| ppm);
        Some(Price {
            version,
            rates,
            request: self.request_price.unwrap_or_default(),
            web_search: self.web_search_price,
            long_context,
            tiers: Tiers {
                flex: ppm(self.flex_price_factor),
                priority: ppm(self.priority_price_factor),
                batch: ppm(self.batch_price_factor),
            },
        })
    }

    /// What is said of a long context has to be said of some length, and the other way round; and no batch is dearer.
    fn check(&self, param: impl Fn(&str) -> String) -> Result<()> {
        let long = [
            ("long_input_price", self.long_input_price),
            ("long_cached_input_price", self.long_cached_input_price),
            ("long_cache_write_price", self.long_cache_write_price),
            ("long_cache_write_1h_price", self.long_cache_write_1h_price),
            ("long_output_price", self.long_output_price),
        ];
        if self.batch_price_factor.is_some_and(|Factor(ppm)| ppm > 1_000_000) {
            let at = param("batch_price_factor");
            let message = format!("Invalid '{at}': a batch costs no more than what is asked for by itself.");
            return Err(Error::invalid(at, message));
        }
        let said = long.iter().find(|(_, price)| price.is_some());
        let wrong = |name: &str, message: String| Err(Error::invalid(param(name), message));
        match (said, self.long_context_above) {
            (Some((name, _)), None) => {
                let message = format!(
                    "Invalid '{}': it applies above so many input tokens, which 'long_context_above' has to say.",
                    param(name)
                );
                wrong(name, message)
            }
            (None, Some(_)) => {
                let message = format!(
                    "Invalid '{}': what it costs above so many input tokens has to be said, by 'long_input_price' and \
                     'long_output_price'.",
                    param("long_context_above")
                );
                wrong("long_context_above", message)
            }
            _ => Ok(()),
        }
    }

    /// An object of those that are said.
    pub fn said(&self) -> Value {
        let said = self.values().into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(said.collect())
    }

    pub fn to_stored(&self) -> String {
        self.said().to_string()
    }

    pub fn from_stored(text: &str) -> Result<Self> {
        let said: FiguresPatch = serde_json::from_str(text)
            .map_err(|error| Error::internal(format!("a stored price cannot be read: {error}")))?;
        said.apply(Self::default(), "")
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Self::NAMES.len()))?;
        for (name, value) in self.values() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

impl JsonSchema for Figures {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Prices".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema(true)
    }
}

fn schema(are_all_there: bool) -> Schema {
    let properties: serde_json::Map<String, Value> = Figures::NAMES
        .iter()
        .zip(DOCS)
        .map(|(name, doc)| {
            let kind = if NUMBERS.contains(name) { "integer" } else { "string" };
            let shape = serde_json::json!({"type": [kind, "null"], "description": doc.trim()});
            ((*name).to_owned(), shape)
        })
        .collect();
    let mut schema = schemars::json_schema!({"type": "object", "properties": properties});
    if are_all_there {
        schema.insert("required".to_owned(), serde_json::json!(Figures::NAMES));
    }
    schema
}

/// Figures that are numbers in JSON.
const NUMBERS: &[&str] = &["long_context_above"];

/// Figures that are set, taken back with null, or left as they are.
#[derive(Clone, Debug, Default)]
pub struct FiguresPatch(Vec<(&'static str, Value)>);

impl FiguresPatch {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `before` is the name under which they stand, such as `prices.`, for errors.
    pub fn apply(&self, base: Figures, before: &str) -> Result<Figures> {
        let param = |name: &str| format!("{before}{name}");
        let mut figures = base;
        for (name, value) in &self.0 {
            let text = match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                Value::Number(number) if number.is_u64() && NUMBERS.contains(name) => {
                    Some(number.to_string())
                }
                other => {
                    let expected =
                        if NUMBERS.contains(name) { "an integer" } else { "a decimal text such as \"0.15\"" };
                    let message = format!(
                        "Invalid type for '{}': expected {expected}, but got {other} instead.",
                        param(name)
                    );
                    return Err(Error::invalid(param(name), message).code("invalid_type"));
                }
            };
            figures.set(name, text.as_deref()).map_err(|expected| {
                let got: String = text.as_deref().unwrap_or_default().chars().take(40).collect();
                let message = format!("Invalid '{}': expected {expected}, but got '{got}'.", param(name));
                Error::invalid(param(name), message)
            })?;
        }
        figures.check(param)?;
        Ok(figures)
    }
}

impl<'de> Deserialize<'de> for FiguresPatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Said;
        impl<'de> Visitor<'de> for Said {
            type Value = FiguresPatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of prices")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<FiguresPatch, A::Error> {
                let mut said: Vec<(&'static str, Value)> = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let Some(name) = Figures::NAMES.iter().find(|name| **name == key) else {
                        return Err(A::Error::unknown_field(&key, Figures::NAMES));
                    };
                    if said.iter().any(|(other, _)| other == name) {
                        return Err(A::Error::duplicate_field(name));
                    }
                    said.push((name, map.next_value()?));
                }
                Ok(FiguresPatch(said))
            }
        }
        deserializer.deserialize_map(Said)
    }
}

impl JsonSchema for FiguresPatch {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PricesPatch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(json: &str) -> Result<Figures> {
        serde_json::from_str::<FiguresPatch>(json).unwrap().apply(Figures::default(), "prices.")
    }

    #[test]
    fn figures_survive_being_stored() {
        let figures = patch(
            r#"{"input_price":"0.15","request_price":"0.002","flex_price_factor":"0.5","long_context_above":200000,
                "long_input_price":"0.3","output_price":null}"#,
        )
        .unwrap();
        assert_eq!(Figures::from_stored(&figures.to_stored()).unwrap(), figures);
        assert_eq!(figures.input_price, Some(UnitPrice(150_000)));
        assert_eq!(figures.request_price, Some(Money(2_000_000)));
    }

    #[test]
    fn what_cannot_be_a_price_is_named() {
        for (json, param) in [
            (r#"{"input_price":"0.1234567"}"#, "prices.input_price"),
            (r#"{"output_price":"-1"}"#, "prices.output_price"),
            (r#"{"output_price":"1e-6"}"#, "prices.output_price"),
            (r#"{"output_price":0.15}"#, "prices.output_price"),
            (r#"{"output_price":"1000001"}"#, "prices.output_price"),
            (r#"{"request_price":"-0.1"}"#, "prices.request_price"),
            (r#"{"request_price":"0.0000000001"}"#, "prices.request_price"),
            (r#"{"flex_price_factor":"101"}"#, "prices.flex_price_factor"),
            (r#"{"batch_price_factor":"1.5"}"#, "prices.batch_price_factor"),
            (r#"{"long_context_above":0}"#, "prices.long_context_above"),
            (r#"{"long_context_above":1.5}"#, "prices.long_context_above"),
            (r#"{"input_price":1}"#, "prices.input_price"),
            (r#"{"long_context_above":"+5"}"#, "prices.long_context_above"),
            (r#"{"long_context_above":"5"}"#, "prices.long_context_above"),
            (r#"{"long_output_price":"5"}"#, "prices.long_output_price"),
        ] {
            let error = patch(json).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{json}: {}", error.message);
        }
        for json in [r#"{"price":"1"}"#, r#"{"input_price":"1","input_price":"2"}"#] {
            assert!(serde_json::from_str::<FiguresPatch>(json).is_err(), "{json}");
        }
    }
}
