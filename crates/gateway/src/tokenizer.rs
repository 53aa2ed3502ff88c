//! The exact number of tokens of a request's text, for when the bound by bytes does not fit.
//!
//! Bytes bound tokens for nothing, but four times too high. Counting costs a millisecond for 25 kB, so it is asked only
//! before somebody would be refused, on a thread that may block, for bodies of a limited size.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use tiktoken_rs::CoreBPE;

use crate::fields::Text;

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

    /// The most tokens that the text of a JSON body with so many messages can be; `None` if it is too large to be
    /// counted. Blocks for milliseconds.
    pub(crate) fn count(self, body: &[u8], messages: u64) -> Option<u64> {
        if body.len() > BODY_BYTES_MAX {
            return None;
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        let values = Count(self).deserialize(&mut reader).ok()?;
        Some(values + digits(body) + MESSAGE_TOKENS * messages + FRAMING_TOKENS)
    }

    fn of_text(self, text: &str) -> u64 {
        let is_long = |run: &str| run.len() > RUN_BYTES_MAX;
        if text.split_ascii_whitespace().any(is_long) {
            return text.len() as u64;
        }
        self.bpe().encode_ordinary(text).len() as u64
    }
}

/// Counts a value and all that is in it, as it stands: of two fields of one name, both. Numbers are counted by
/// [`digits`], whatever they are read as.
struct Count(Tokenizer);

impl<'de> DeserializeSeed<'de> for Count {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(VALUE_TOKENS + 1)
    }

    fn visit_bool<E>(self, _: bool) -> Result<u64, E> {
        Ok(VALUE_TOKENS + 1)
    }

    fn visit_u64<E>(self, _: u64) -> Result<u64, E> {
        Ok(VALUE_TOKENS)
    }

    fn visit_i64<E>(self, _: i64) -> Result<u64, E> {
        Ok(VALUE_TOKENS)
    }

    fn visit_f64<E>(self, _: f64) -> Result<u64, E> {
        Ok(VALUE_TOKENS)
    }

    fn visit_str<E>(self, text: &str) -> Result<u64, E> {
        Ok(VALUE_TOKENS + self.0.of_text(text))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<u64, S::Error> {
        let mut sum = VALUE_TOKENS;
        while let Some(tokens) = seq.next_element_seed(Self(self.0))? {
            sum += tokens;
        }
        Ok(sum)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<u64, M::Error> {
        let mut sum = VALUE_TOKENS;
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            sum += VALUE_TOKENS + self.0.of_text(&name) + map.next_value_seed(Self(self.0))?;
        }
        Ok(sum)
    }
}

/// Bytes of the numbers in a JSON text, which are at most a token each.
fn digits(body: &[u8]) -> u64 {
    let (mut digits, mut is_text, mut is_escaped) = (0, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E' if !is_text => digits += 1,
            _ => {}
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

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
    fn a_text_counts_a_quarter_of_its_bytes() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(400);
        let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).to_string();
        let counted = Tokenizer::O200k.count(body.as_bytes(), 8).unwrap();
        assert!(counted < body.len() as u64 / 3, "{counted} of {}", body.len());
    }

    #[test]
    fn everything_counts_wherever_it_stands_and_however_often() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(400);
        let of_text = Tokenizer::O200k.of_text(&text);
        let string = serde_json::to_string(&text).unwrap();
        for body in [
            format!(r#"{{"text":{string},"text":"a"}}"#),
            format!(
                r#"{{"tools":[{{"parameters":{{"properties":{{"image_url":{{"description":{string}}}}}}}}}]}}"#
            ),
            format!(r#"{{"image_url":{string}}}"#),
            format!("{{{string}:1}}"),
        ] {
            assert!(Tokenizer::O200k.count(body.as_bytes(), 0).unwrap() > of_text, "{}", &body[..40]);
        }
        let number = format!(r#"{{"a":0.{},"b":"1\"2"}}"#, "1".repeat(5_000));
        assert!(Tokenizer::O200k.count(number.as_bytes(), 0).unwrap() > 5_000);
        assert_eq!(digits(br#"{"a1":-1.5e3,"b":"12\"34",  "c":[7]}"#), 7);
    }

    #[test]
    fn what_would_take_the_tokenizer_long_counts_by_its_bytes() {
        for run in
            ["a".repeat(300_000), "\u{fdfa}".repeat(100_000), "=".repeat(300_000), "\u{200d}".repeat(100_000)]
        {
            let body = json!({"messages": [{"content": run}]}).to_string();
            assert!(Tokenizer::O200k.count(body.as_bytes(), 8).unwrap() >= run.len() as u64);
        }
        assert_eq!(Tokenizer::O200k.count(&vec![b' '; BODY_BYTES_MAX + 1], 0), None);
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
            prop_assert!(tokenizer.count(body.as_bytes(), messages.len() as u64).unwrap() >= truth);
            prop_assert!(body.len() as u64 + FRAMING_TOKENS >= truth);
        }
    }
}
