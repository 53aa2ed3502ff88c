//! What is known of provider connections: how they are told things, and what they do when nobody listens any more.

use crate::address::Address;
use crate::secret::Secret;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

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
    /// How a credential is presented to an upstream.
    Authentication {
        /// `Authorization: Bearer`, as OpenAI and most others read it.
        Bearer = "bearer",
        /// As Anthropic reads it for what is its own.
        XApiKey = "x-api-key",
        /// As Azure reads it.
        ApiKey = "api-key",
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

fn is_azure(address: &Address) -> bool {
    let host = address.host.as_str();
    host.ends_with(".openai.azure.com") || host.ends_with(".services.ai.azure.com")
}

impl Authentication {
    /// What the upstream at an address reads unless an operator says otherwise.
    pub fn usual(address: &Address) -> Self {
        // Anthropic reads a Bearer key for what OpenAI's clients ask it.
        if is_azure(address) { Self::ApiKey } else { Self::Bearer }
    }

    /// The field of a head that presents a credential, with the end of its line.
    pub fn field(self, credential: &Secret) -> String {
        match self {
            Self::Bearer => format!("authorization: Bearer {}\r\n", credential.reveal()),
            _ => format!("{}: {}\r\n", self.as_str(), credential.reveal()),
        }
    }
}

impl OutputLimitField {
    /// What the upstream at an address reads unless an operator says otherwise.
    pub fn usual(address: &Address) -> Self {
        if is_openai(address) || is_azure(address) { Self::MaxCompletionTokens } else { Self::MaxTokens }
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
    fn a_credential_is_presented_as_the_provider_reads_it() {
        let field = |url| Authentication::usual(&Address::parse(url).unwrap()).field(&Secret::new("s"));
        assert_eq!(field("https://api.openai.com/v1"), "authorization: Bearer s\r\n");
        assert_eq!(field("https://x.openai.azure.com/openai/v1"), "api-key: s\r\n");
        assert_eq!(field("https://api.anthropic.com/v1"), "authorization: Bearer s\r\n");
        assert_eq!(Authentication::XApiKey.field(&Secret::new("s")), "x-api-key: s\r\n");
        assert_eq!(field("https://openai.azure.com.example/v1"), "authorization: Bearer s\r\n");
    }

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
