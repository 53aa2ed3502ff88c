//! What is known of provider connections: how they are told things, and what they do when nobody listens any more.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::Address;
use crate::error::{Error, Result};
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

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                Self::parse(&word).ok_or_else(|| serde::de::Error::custom("an unknown word"))
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
    /// The version of HTTP that is spoken to an upstream.
    HttpVersion {
        Http11 = "1.1",
        /// Many requests at once on one connection. Over TLS it must be agreed on, else the server is expected to know.
        Http2 = "2",
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

/// Whose API a request is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    OpenAi,
    Anthropic,
}

impl Protocol {
    /// What a server at an address speaks when it is asked for its models.
    pub fn of_models(address: &Address) -> Self {
        if is_anthropic(address) { Self::Anthropic } else { Self::OpenAi }
    }
}

/// The version of Anthropic's API that is asked for where a client names none.
pub const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What an operator sets of an upstream, apart from its address and secrets. It is stored as one JSON object; what is
/// left out is the usual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_limit_field: Option<OutputLimitField>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_version: Option<HttpVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_client_gone: Option<OnClientGone>,
    /// Of the parameters that are not known to leave the cost of a request as it is, those that do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_parameters: Vec<String>,
    /// The upstreams of a model with the least number are asked; the others only while none of those can be.
    pub priority: u32,
    /// How often it is asked beside others of its priority.
    pub weight: u32,
    /// The most requests that a node has under way at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_max: Option<u32>,
    /// Seconds to make a connection, TLS included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<u32>,
    /// Seconds from the request to the head of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_timeout: Option<u32>,
    /// Seconds between two pieces of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<u32>,
    /// The names of its extra headers. Their values are secrets and stored as such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub header_names: Vec<String>,
    /// What it calls models that clients call otherwise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub model_mapping: BTreeMap<String, String>,
    /// The certificate authorities, as PEM, that are trusted in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
}

impl Settings {
    pub const WEIGHT_USUAL: u32 = 1;

    pub fn from_stored(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::internal("the settings of an upstream cannot be read").source(error))
    }

    pub fn to_stored(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("the settings of an upstream cannot be written").source(error))
    }

    /// The fields of every head that is sent to an upstream: its credential, as what speaks `protocol` there reads it, and
    /// the extra `headers`, which are a JSON object of texts.
    pub fn header_fields(
        &self,
        address: &Address,
        protocol: Protocol,
        credential: Option<&Secret>,
        headers: Option<&Secret>,
    ) -> Result<Secret> {
        let usual = match protocol {
            Protocol::Anthropic if is_anthropic(address) => Authentication::XApiKey,
            _ => Authentication::usual(address),
        };
        let authentication = self.authentication.unwrap_or(usual);
        let mut fields = credential.map_or_else(String::new, |secret| authentication.field(secret));
        if let Some(headers) = headers {
            let headers: BTreeMap<String, String> = serde_json::from_str(headers.reveal())
                .map_err(|_| Error::internal("the headers of an upstream cannot be read"))?;
            for (name, value) in headers {
                fields.extend([&name, ": ", &value, "\r\n"]);
            }
        }
        Ok(Secret::new(fields))
    }

    /// A timeout that is set, or the usual one.
    pub fn seconds(set: Option<u32>, usual: Duration) -> Duration {
        set.map_or(usual, |seconds| Duration::from_secs(u64::from(seconds)))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authentication: None,
            output_limit_field: None,
            http_version: None,
            on_client_gone: None,
            allowed_parameters: Vec::new(),
            priority: 0,
            weight: Self::WEIGHT_USUAL,
            concurrency_max: None,
            connect_timeout: None,
            answer_timeout: None,
            stall_timeout: None,
            header_names: Vec::new(),
            model_mapping: BTreeMap::new(),
            ca_certificates: None,
        }
    }
}

/// Fields of a head that Tollgate writes, or that say how a message is read: an operator's cannot be among them.
pub fn is_own_field(name: &str) -> bool {
    const OWN: [&str; 24] = [
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "accept",
        "accept-encoding",
        "user-agent",
        "x-request-id",
        "authorization",
        "x-api-key",
        "api-key",
        "traceparent",
        "tracestate",
        "cookie",
    ];
    OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Whether an address is OpenAI's own.
pub fn is_openai(address: &Address) -> bool {
    address.host == "api.openai.com" || address.host.ends_with(".api.openai.com")
}

/// Whether an address is Anthropic's own.
pub fn is_anthropic(address: &Address) -> bool {
    address.host == "api.anthropic.com" || address.host.ends_with(".api.anthropic.com")
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
