//! Usage as upstreams report it.

use serde::Deserialize;
use serde::de::IgnoredAny;
use tollgate_core::price::TokenUsage;

/// More tokens than any request can have: a report beyond it is nonsense.
const TOKENS_MAX: i64 = 1_000_000_000;

#[derive(Deserialize)]
struct Reported {
    #[serde(default)]
    usage: Option<Usage>,
    /// Only whether there are any matters.
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    #[serde(default)]
    prompt_tokens_details: Option<InputDetails>,
}

#[derive(Deserialize)]
struct InputDetails {
    cached_tokens: Option<i64>,
    cache_write_tokens: Option<i64>,
}

/// What an answer, or one event of a stream, says of usage.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// `None` if it says nothing, or nothing that can be believed.
    pub(crate) usage: Option<TokenUsage>,
    /// Whether it carries usage and nothing else, as the extra event at the end of a stream does.
    pub(crate) is_only_usage: bool,
}

pub(crate) fn read(json: &[u8]) -> Report {
    let Ok(reported) = serde_json::from_slice::<Reported>(json) else { return Report::default() };
    let usage = reported.usage.and_then(|usage| believe(&usage));
    let is_only_usage = usage.is_some() && reported.choices.is_some_and(|choices| choices.is_empty());
    Report { usage, is_only_usage }
}

fn believe(usage: &Usage) -> Option<TokenUsage> {
    let count = |tokens: Option<i64>| match tokens {
        None => Some(0),
        Some(tokens) if tokens <= TOKENS_MAX => u64::try_from(tokens).ok(),
        Some(_) => None,
    };
    let details = usage.prompt_tokens_details.as_ref();
    Some(TokenUsage {
        input: count(Some(usage.prompt_tokens?))?,
        output: count(usage.completion_tokens)?,
        cached_input: count(details.and_then(|details| details.cached_tokens))?,
        cache_write: count(details.and_then(|details| details.cache_write_tokens))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_with_its_details() {
        let report = read(
            br#"{"choices":[{"x":1}],"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,
                "prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":null}}"#,
        );
        let usage = TokenUsage { input: 10, cached_input: 4, cache_write: 0, output: 3 };
        assert_eq!(report, Report { usage: Some(usage), is_only_usage: false });
        let embeddings = read(br#"{"object":"list","data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#);
        assert_eq!(embeddings.usage.unwrap().input, 8);
        assert!(read(br#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#).is_only_usage);
    }

    #[test]
    fn nonsense_is_no_usage() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"usage":null}"#,
            r#"{"usage":{}}"#,
            r#"{"usage":{"prompt_tokens":-1}}"#,
            r#"{"usage":{"prompt_tokens":1,"completion_tokens":-5}}"#,
            r#"{"usage":{"prompt_tokens":1.5}}"#,
            r#"{"usage":{"prompt_tokens":9000000000}}"#,
            r#"{"usage":{"prompt_tokens":"3"}}"#,
            r#"{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":0}}"#,
        ] {
            assert_eq!(read(json.as_bytes()).usage, None, "{json}");
        }
    }
}
