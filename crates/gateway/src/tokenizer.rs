//! The exact number of tokens of a request's text, for when the bound by bytes does not fit.
//!
//! Bytes bound tokens for nothing, but four times too high. Counting costs a millisecond for 25 kB, so it is asked only
//! before somebody would be refused, on a thread that may block, for bodies of a limited size.

use serde_json::Value;
use tiktoken_rs::CoreBPE;

/// Bodies beyond it are bounded by their bytes alone.
const BODY_BYTES_MAX: usize = 512 * 1024;
/// A longer run without a space is no language, takes the tokenizer long, and counts by its bytes.
const RUN_BYTES_MAX: usize = 1_024;
/// Around each value of the request a provider may put some tokens: names, quotes, commas, or the form of a tool.
const VALUE_TOKENS: u64 = 3;
/// Around each message, by what providers publish 3 and 1 for a name.
const MESSAGE_TOKENS: u64 = 16;
/// Around all of it.
const FRAMING_TOKENS: u64 = 64;

/// A tokenizer whose provider has published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokenizer {
    O200k,
    Cl100k,
}

impl Tokenizer {
    /// That of a model, if it is known.
    pub(crate) fn of(model: &str) -> Option<Self> {
        const O200K: [&str; 9] =
            ["gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "gpt-oss", "chatgpt-4o", "o1", "o3", "o4-"];
        const CL100K: [&str; 4] = ["gpt-4", "gpt-3.5-turbo", "text-embedding-3-", "text-embedding-ada-002"];
        let base = model.strip_prefix("ft:").unwrap_or(model);
        let is_one = |names: &[&str]| names.iter().any(|name| base.starts_with(name));
        if is_one(&O200K) {
            Some(Self::O200k)
        } else if is_one(&CL100K) {
            Some(Self::Cl100k)
        } else {
            None
        }
    }

    fn bpe(self) -> &'static CoreBPE {
        match self {
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
        }
    }

    /// The most tokens that the text of a body can be, images apart; `None` if it is too large to be counted. Blocks for
    /// milliseconds.
    pub(crate) fn count(self, body: &[u8]) -> Option<u64> {
        if body.len() > BODY_BYTES_MAX {
            return None;
        }
        let body: Value = serde_json::from_slice(body).ok()?;
        let messages = body.get("messages").and_then(Value::as_array).map_or(0, Vec::len) as u64;
        Some(self.of_value(&body) + MESSAGE_TOKENS * messages + FRAMING_TOKENS)
    }

    fn of_value(self, value: &Value) -> u64 {
        VALUE_TOKENS
            + match value {
                Value::Null | Value::Bool(_) => 1,
                Value::Number(number) => number.to_string().len() as u64,
                Value::String(text) => self.of_text(text),
                Value::Array(items) => items.iter().map(|item| self.of_value(item)).sum(),
                Value::Object(fields) => {
                    // The address of an image is not read as text.
                    let read = fields.iter().filter(|(name, _)| *name != "image_url");
                    read.map(|(name, value)| VALUE_TOKENS + self.of_text(name) + self.of_value(value)).sum()
                }
            }
    }

    fn of_text(self, text: &str) -> u64 {
        let is_long = |run: &str| run.len() > RUN_BYTES_MAX;
        if text.split_ascii_whitespace().any(is_long) {
            return text.len() as u64;
        }
        self.bpe().encode_ordinary(text).len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn models_have_the_tokenizers_their_providers_published() {
        for (model, tokenizer) in [
            ("gpt-4o-mini", Some(Tokenizer::O200k)),
            ("ft:gpt-4o-2024-08-06:acme::x", Some(Tokenizer::O200k)),
            ("o3-mini", Some(Tokenizer::O200k)),
            ("gpt-4-turbo", Some(Tokenizer::Cl100k)),
            ("text-embedding-3-small", Some(Tokenizer::Cl100k)),
            ("llama3.1", None),
            ("claude-sonnet", None),
            ("", None),
        ] {
            assert_eq!(Tokenizer::of(model), tokenizer, "{model}");
        }
    }

    #[test]
    fn a_text_counts_a_quarter_of_its_bytes_and_an_image_nothing() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(400);
        let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).to_string();
        let counted = Tokenizer::O200k.count(body.as_bytes()).unwrap();
        assert!(counted < body.len() as u64 / 3, "{counted} of {}", body.len());
        let image = json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "x".repeat(90_000)}}]}]});
        assert!(Tokenizer::O200k.count(image.to_string().as_bytes()).unwrap() < 200);
    }

    #[test]
    fn what_would_take_the_tokenizer_long_counts_by_its_bytes() {
        for run in
            ["a".repeat(300_000), "\u{fdfa}".repeat(100_000), "=".repeat(300_000), "\u{200d}".repeat(100_000)]
        {
            let body = json!({"messages": [{"content": run}]}).to_string();
            assert!(Tokenizer::O200k.count(body.as_bytes()).unwrap() >= run.len() as u64);
        }
        assert_eq!(Tokenizer::O200k.count(&vec![b' '; BODY_BYTES_MAX + 1]), None);
    }

    /// What the cookbook of the provider says that messages count.
    fn truth(tokenizer: Tokenizer, messages: &[(String, String, Option<String>)]) -> u64 {
        let count = |text: &str| tokenizer.bpe().encode_ordinary(text).len() as u64;
        let message = |(role, content, name): &(String, String, Option<String>)| {
            3 + count(role) + count(content) + name.as_ref().map_or(0, |name| 1 + count(name))
        };
        3 + messages.iter().map(message).sum::<u64>()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
        #[test]
        fn no_request_is_more_tokens_than_were_counted_nor_than_it_has_bytes(
            messages in proptest::collection::vec(
                ("system|user|assistant|tool", "\\PC{0,300}|[a-z ,.]{0,300}|[\u{4e00}-\u{9fff}]{0,100}", proptest::option::of("[a-z]{1,20}")), 1..8),
            is_older in any::<bool>(),
        ) {
            let tokenizer = if is_older { Tokenizer::Cl100k } else { Tokenizer::O200k };
            let listed: Vec<Value> = messages
                .iter()
                .map(|(role, content, name)| match name {
                    Some(name) => json!({"role": role, "content": content, "name": name}),
                    None => json!({"role": role, "content": content}),
                })
                .collect();
            let body = json!({"model": "m", "messages": listed}).to_string();
            let truth = truth(tokenizer, &messages);
            prop_assert!(tokenizer.count(body.as_bytes()).unwrap() >= truth);
            prop_assert!(body.len() as u64 + FRAMING_TOKENS >= truth);
        }
    }
}
