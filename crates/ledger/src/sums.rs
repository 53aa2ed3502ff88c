//! What is counted of settled attempts: the one list of columns of whatever sums them up.

use tollgate_core::price::{Cost, TokenUsage};
use tollgate_core::{Money, Result};
use tollgate_store::{Row, ToValue, Value};

/// The columns, in their order: each with what an attempt `a` with its adjustments `j` adds to it.
macro_rules! sums {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $of_attempt:literal,)*) => {
        /// Sums of settled attempts and their adjustments.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Sums {
            $($(#[$doc])* pub $name: $kind,)*
        }

        impl Sums {
            pub(crate) const COUNT: usize = [$(stringify!($name)),*].len();
            /// The columns, after others.
            pub(crate) const COLUMNS: &str = concat!($(", ", stringify!($name)),*);
            /// What an upsert into `r` sets, each after a comma.
            pub(crate) const ADDED: &str =
                concat!($(", ", stringify!($name), " = r.", stringify!($name), " + excluded.", stringify!($name)),*);
            /// The sums over rows `r` that are sums themselves, after other columns.
            pub(crate) const OF_SUMS: &str =
                concat!($(", CAST(SUM(r.", stringify!($name), ") AS BIGINT) AS ", stringify!($name)),*);
            /// The sums over attempts `a` with adjustments `j`.
            pub(crate) const OF_ATTEMPTS: &str =
                concat!($(", CAST(SUM(", $of_attempt, ") AS BIGINT) AS ", stringify!($name)),*);

            /// In the order of the columns.
            pub(crate) fn values(&self) -> [Value; Self::COUNT] {
                [$(self.$name.to_value()),*]
            }

            pub(crate) fn read(row: &Row) -> Result<Self> {
                Ok(Self { $($name: row.get(stringify!($name))?,)* })
            }
        }

        impl std::ops::AddAssign for Sums {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

sums! {
    requests: i64 = "1",
    /// Those that had less output than they asked for.
    clamped_requests: i64 = "CASE WHEN a.clamped_to IS NULL THEN 0 ELSE 1 END",
    input_cost: Money = "a.input_cost",
    cached_input_cost: Money = "a.cached_input_cost",
    cache_write_cost: Money = "a.cache_write_cost",
    output_cost: Money = "a.output_cost",
    drained_output_cost: Money = "a.drained_output_cost",
    /// Of requests beside their tokens.
    request_cost: Money = "a.request_cost",
    /// Of tools that the provider runs.
    tool_cost: Money = "a.tool_cost",
    /// By corrections and refunds: what has no tokens of its own.
    adjusted_cost: Money = "COALESCE(j.cost, 0)",
    input_tokens: i64 = "a.input_tokens + COALESCE(j.input_tokens, 0)",
    cached_input_tokens: i64 = "a.cached_input_tokens",
    cache_write_tokens: i64 = "a.cache_write_tokens",
    /// Of the cache-write tokens, those that are kept for an hour.
    cache_write_1h_tokens: i64 = "a.cache_write_1h_tokens",
    /// Of the input that was neither, what was heard.
    audio_input_tokens: i64 = "a.audio_input_tokens",
    /// And what was seen.
    image_input_tokens: i64 = "a.image_input_tokens",
    output_tokens: i64 = "a.output_tokens + COALESCE(j.output_tokens, 0)",
    /// Of the output, what was spoken.
    audio_output_tokens: i64 = "a.audio_output_tokens",
    /// And what was drawn.
    image_output_tokens: i64 = "a.image_output_tokens",
    drained_output_tokens: i64 = "a.drained_output_tokens",
    web_search_calls: i64 = "a.web_search_calls",
}

impl Sums {
    pub(crate) fn of(usage: TokenUsage, cost: Cost, is_clamped: bool) -> Self {
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        Self {
            requests: 1,
            clamped_requests: i64::from(is_clamped),
            input_cost: cost.input,
            cached_input_cost: cost.cached_input,
            cache_write_cost: cost.cache_write,
            output_cost: cost.output,
            drained_output_cost: cost.drained_output,
            request_cost: cost.request,
            tool_cost: cost.tools,
            adjusted_cost: Money::ZERO,
            input_tokens: count(usage.input),
            cached_input_tokens: count(usage.cached_input()),
            cache_write_tokens: count(usage.cache_write()),
            cache_write_1h_tokens: count(usage.cache_write_1h()),
            audio_input_tokens: count(usage.audio_input()),
            image_input_tokens: count(usage.image_input()),
            output_tokens: count(usage.output),
            audio_output_tokens: count(usage.audio_output()),
            image_output_tokens: count(usage.image_output()),
            drained_output_tokens: count(usage.drained_output()),
            web_search_calls: count(usage.web_searches),
        }
    }

    /// With corrections and refunds.
    pub fn cost(&self) -> Money {
        self.input_cost
            + self.cached_input_cost
            + self.cache_write_cost
            + self.output_cost
            + self.drained_output_cost
            + self.request_cost
            + self.tool_cost
            + self.adjusted_cost
    }

    pub fn uncached_input_tokens(&self) -> i64 {
        self.input_tokens - self.cached_input_tokens - self.cache_write_tokens
    }
}
