//! What is known of provider connections: how they are told things, and what they do when nobody listens any more.

use crate::address::Address;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }
    };
}

words! {
    /// The field of a request in which an upstream reads the most output of one choice.
    OutputLimitField {
        /// The older name, which all but OpenAI's newer models read.
        MaxTokens = "max_tokens",
        MaxCompletionTokens = "max_completion_tokens",
    }
}

words! {
    /// What is done with an answer whose client has gone.
    OnClientGone {
        /// The connection is closed: the upstream stops, and bills no more.
        Cancel = "cancel",
        /// The answer is read on for its usage: the upstream bills all of it either way.
        Drain = "drain",
    }
}

/// Whether an address is OpenAI's own.
pub fn is_openai(address: &Address) -> bool {
    address.host == "api.openai.com" || address.host.ends_with(".api.openai.com")
}

impl OutputLimitField {
    /// What the upstream at an address reads unless an operator says otherwise.
    pub fn usual(address: &Address) -> Self {
        let host = address.host.as_str();
        let is_azure = host.ends_with(".openai.azure.com") || host.ends_with(".services.ai.azure.com");
        if is_openai(address) || is_azure { Self::MaxCompletionTokens } else { Self::MaxTokens }
    }
}

impl OnClientGone {
    /// What suits the server that calls itself `owner` in its list of models: those that people run themselves stop
    /// when the connection closes, and of all others it is not known.
    pub fn of_models_owned_by(owner: &str) -> Self {
        match owner {
            "vllm" | "library" | "llamacpp" | "sglang" => Self::Cancel,
            _ => Self::Drain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_is_told_by_the_newer_name_and_others_by_the_older() {
        let usual = |url| OutputLimitField::usual(&Address::parse(url).unwrap()).as_str();
        assert_eq!(usual("https://api.openai.com/v1"), "max_completion_tokens");
        assert_eq!(usual("https://eu.api.openai.com/v1"), "max_completion_tokens");
        assert_eq!(usual("https://x.openai.azure.com/openai"), "max_completion_tokens");
        assert_eq!(usual("https://evil-api.openai.com.example/v1"), "max_tokens");
        assert_eq!(usual("http://127.0.0.1:11434/v1"), "max_tokens");
    }
}
