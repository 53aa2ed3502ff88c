//! What was used, as an upstream reports it.

/// A way to be served at a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    Usual,
    /// Later, and cheaper.
    Flex,
    /// Sooner, and dearer.
    Priority,
    /// With many others, and cheaper.
    Batch,
}

impl Tier {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usual => "default",
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Batch => "batch",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Usual, Self::Flex, Self::Priority, Self::Batch].into_iter().find(|tier| tier.as_str() == word)
    }
}

/// Tokens as an upstream reports them. `input` includes the cached and the cache-write tokens, as on OpenAI's wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub input: u64,
    pub cached_input: u64,
    pub cache_write: u64,
    /// Of the cache-write tokens, those that are kept for an hour.
    pub cache_write_1h: u64,
    /// Of the input that was neither, what was heard.
    pub audio_input: u64,
    /// Of it, what was seen.
    pub image_input: u64,
    pub output: u64,
    /// Of the output, what was thought.
    pub reasoning: u64,
    /// What was spoken.
    pub audio_output: u64,
    /// What was drawn; `None` if nothing is said of it.
    pub image_output: Option<u64>,
    /// Of the output, what was made after the client had gone.
    pub drained_output: u64,
    /// That the provider ran, and charges for each.
    pub web_searches: u64,
    /// In which it was served; `None` if that is not known.
    pub tier: Option<Tier>,
}

impl TokenUsage {
    /// More than anybody waits for: nobody asks for more, and a report of more is nonsense.
    pub const WEB_SEARCHES_MAX: u64 = 1_000;

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

    pub fn cache_write_1h(self) -> u64 {
        self.cache_write_1h.min(self.cache_write())
    }

    pub fn audio_input(self) -> u64 {
        self.audio_input.min(self.uncached_input())
    }

    pub fn image_input(self) -> u64 {
        self.image_input.min(self.uncached_input() - self.audio_input())
    }

    pub fn audio_output(self) -> u64 {
        self.audio_output.min(self.output)
    }

    pub fn image_output(self) -> u64 {
        self.image_output.unwrap_or(0).min(self.output - self.audio_output())
    }

    pub fn reasoning(self) -> u64 {
        self.reasoning.min(self.output - self.audio_output() - self.image_output())
    }

    /// That of its price: the usual one where no other is known.
    pub fn tier(self) -> Tier {
        self.tier.unwrap_or(Tier::Usual)
    }

    pub fn drained_output(self) -> u64 {
        self.drained_output.min(self.output)
    }
}
