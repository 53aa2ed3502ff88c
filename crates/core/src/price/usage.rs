//! What was used, as an upstream reports it.

/// A way to be served at a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    Usual,
    /// Later, and cheaper.
    Flex,
    /// Sooner, and dearer.
    Priority,
}

impl Tier {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usual => "default",
            Self::Flex => "flex",
            Self::Priority => "priority",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Usual, Self::Flex, Self::Priority].into_iter().find(|tier| tier.as_str() == word)
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
    pub output: u64,
    /// Of the output, what was spoken.
    pub audio_output: u64,
    /// Of the output, what was made after the client had gone.
    pub drained_output: u64,
    /// In which it was served; `None` if that is not known.
    pub tier: Option<Tier>,
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

    pub fn cache_write_1h(self) -> u64 {
        self.cache_write_1h.min(self.cache_write())
    }

    pub fn audio_input(self) -> u64 {
        self.audio_input.min(self.uncached_input())
    }

    pub fn audio_output(self) -> u64 {
        self.audio_output.min(self.output)
    }

    /// That of its price: the usual one where no other is known.
    pub fn tier(self) -> Tier {
        self.tier.unwrap_or(Tier::Usual)
    }

    pub fn drained_output(self) -> u64 {
        self.drained_output.min(self.output)
    }
}
