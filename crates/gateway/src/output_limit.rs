//! The most output of one choice: as the request gives it, and as the upstream has to be told of it.
//!
//! OpenAI has two names for it in chat completions, and many upstreams read only the older one. A limit that the upstream
//! does not read would limit nothing, so it is told under the name that it reads.

use tollgate_core::{Error, Result};

use crate::edit::Edit;
use crate::fields::Raw;

/// No model makes more in one answer; what is beyond it is a mistake or worse.
const TOKENS_MAX: i64 = 10_000_000;

/// What the request says.
#[derive(Debug, Default)]
pub(crate) struct OutputLimit {
    given: Vec<Given>,
}

#[derive(Debug)]
struct Given {
    name: &'static str,
    /// `None` for a null, which is no limit and still stands there.
    tokens: Option<u64>,
    /// The field with its name and colon, and the value alone.
    whole: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

impl OutputLimit {
    pub(crate) fn read(body: &[u8], fields: &[(&'static str, Raw<'_>)]) -> Result<Self> {
        let mut given = Vec::new();
        for (name, raw) in fields {
            let Some(text) = raw.0.map(serde_json::value::RawValue::get) else { continue };
            let value = Edit::range_of(body, text);
            let start = name_start(body, value.start, name).ok_or_else(|| misspelt(name))?;
            let tokens = if text == "null" { None } else { Some(tokens(name, text)?) };
            given.push(Given { name, tokens, whole: start..value.end, value });
        }
        Ok(Self { given })
    }

    /// The larger of two, for an upstream may read either; `None` if neither is given.
    pub(crate) fn tokens(&self) -> Option<u64> {
        self.given.iter().filter_map(|given| given.tokens).max()
    }

    /// Tells an upstream that reads `name` of the request's limit, and of `wanted` where that is less.
    pub(crate) fn edits(&self, body: &[u8], name: &'static str, wanted: Option<u64>) -> Vec<Edit> {
        let Some(limit) = self.tokens().into_iter().chain(wanted).min() else { return Vec::new() };
        let text = format!("\"{name}\":{limit}");
        let is_read = self.given.iter().any(|given| given.name == name);
        let renamed = self.given.iter().position(|given| given.tokens.is_some()).filter(|_| !is_read);
        let mut edits = Vec::new();
        for (position, given) in self.given.iter().enumerate() {
            let in_place = || Edit { range: given.value.clone(), text: limit.to_string() };
            match given.tokens {
                _ if renamed == Some(position) => {
                    edits.push(Edit { range: given.whole.clone(), text: text.clone() });
                }
                // Whoever reads another name is told no more.
                Some(tokens) if tokens > limit => edits.push(in_place()),
                None if given.name == name => edits.push(in_place()),
                _ => {}
            }
        }
        if !is_read && renamed.is_none() {
            edits.push(Edit::insert(body, &text));
        }
        edits
    }
}

fn tokens(name: &'static str, text: &str) -> Result<u64> {
    let refuse = |code, message: String| {
        Err(Error::new(tollgate_core::Kind::InvalidRequest, message).param(name).code(code))
    };
    match text.parse::<i64>() {
        Ok(tokens @ 1..=TOKENS_MAX) => Ok(tokens.unsigned_abs()),
        Ok(tokens) => {
            let code = if tokens < 1 { "integer_below_min_value" } else { "integer_above_max_value" };
            refuse(
                code,
                format!("Invalid '{name}': expected a value from 1 to {TOKENS_MAX}, but got {tokens}."),
            )
        }
        Err(_) => {
            let shown: String = text.chars().take(40).collect();
            refuse(
                "invalid_type",
                format!("Invalid type for '{name}': expected an integer, but got {shown}."),
            )
        }
    }
}

/// Where the name of the field begins whose value begins at `value`.
fn name_start(body: &[u8], value: usize, name: &str) -> Option<usize> {
    let before = body[..value].trim_ascii_end().strip_suffix(b":")?.trim_ascii_end();
    let before = before.strip_suffix(b"\"")?.strip_suffix(name.as_bytes())?.strip_suffix(b"\"")?;
    Some(before.len())
}

/// A name written with escapes is the same to us, and perhaps another to the upstream.
fn misspelt(name: &'static str) -> Error {
    Error::invalid(name, format!("Write the name '{name}' without escapes."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::edit::apply;

    const MAX_TOKENS: &str = "max_tokens";
    const MAX_COMPLETION_TOKENS: &str = "max_completion_tokens";

    fn read(text: &str) -> Result<OutputLimit> {
        let body: Body<'_> = tollgate_core::input::from_json(text.as_bytes())?;
        OutputLimit::read(
            text.as_bytes(),
            &[(MAX_TOKENS, body.max_tokens), (MAX_COMPLETION_TOKENS, body.max_completion_tokens)],
        )
    }

    fn told(text: &str, name: &'static str, tokens: Option<u64>) -> String {
        let edits = read(text).unwrap().edits(text.as_bytes(), name, tokens);
        String::from_utf8(apply(text.as_bytes(), &edits).into_owned()).unwrap()
    }

    #[test]
    fn an_upstream_is_told_the_limit_under_the_name_it_reads() {
        let new = r#"{"a":1, "max_completion_tokens" : 10 ,"b":2}"#;
        assert_eq!(told(new, MAX_COMPLETION_TOKENS, None), new);
        assert_eq!(told(new, MAX_COMPLETION_TOKENS, Some(20)), new);
        assert_eq!(told(new, MAX_COMPLETION_TOKENS, Some(5)), new.replace("10", "5"));
        assert_eq!(told(new, MAX_TOKENS, None), r#"{"a":1, "max_tokens":10 ,"b":2}"#);
        assert_eq!(told(new, MAX_TOKENS, Some(5)), r#"{"a":1, "max_tokens":5 ,"b":2}"#);
        let old = r#"{"max_tokens":10}"#;
        assert_eq!(told(old, MAX_TOKENS, Some(7)), r#"{"max_tokens":7}"#);
        assert_eq!(told("{}", MAX_TOKENS, Some(7)), r#"{"max_tokens":7}"#);
        let null = r#"{"max_tokens":null}"#;
        assert_eq!(told(null, MAX_COMPLETION_TOKENS, None), null);
        assert_eq!(told(null, MAX_TOKENS, Some(7)), r#"{"max_tokens":7}"#);
        assert_eq!(
            told(null, MAX_COMPLETION_TOKENS, Some(7)),
            r#"{"max_completion_tokens":7,"max_tokens":null}"#
        );
        let one = r#"{"max_tokens":null,"max_completion_tokens":9}"#;
        assert_eq!(told(one, MAX_TOKENS, None), r#"{"max_tokens":9,"max_completion_tokens":9}"#);
    }

    #[test]
    fn of_two_limits_the_larger_bounds_and_both_are_lowered() {
        let both = r#"{"max_tokens":10,"max_completion_tokens":30}"#;
        assert_eq!(read(both).unwrap().tokens(), Some(30));
        assert_eq!(told(both, MAX_TOKENS, Some(20)), r#"{"max_tokens":10,"max_completion_tokens":20}"#);
        assert_eq!(told(both, MAX_TOKENS, None), both);
        let told = told(both, "max_output_tokens", Some(20));
        assert_eq!(told, r#"{"max_output_tokens":20,"max_completion_tokens":20}"#);
    }

    #[test]
    fn what_limits_nothing_is_no_limit() {
        for (text, param) in [
            (r#"{"max_tokens":0}"#, "max_tokens"),
            (r#"{"max_tokens":-1}"#, "max_tokens"),
            (r#"{"max_completion_tokens":9223372036854775807}"#, "max_completion_tokens"),
            (r#"{"max_completion_tokens":1e3}"#, "max_completion_tokens"),
            (r#"{"max_completion_tokens":"5"}"#, "max_completion_tokens"),
            (r#"{"max\u005ftokens":5}"#, "max_tokens"),
        ] {
            assert_eq!(read(text).unwrap_err().param.as_deref(), Some(param), "{text}");
        }
    }
}
