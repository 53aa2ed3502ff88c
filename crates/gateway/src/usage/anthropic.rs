//! Usage as Anthropic reports it: the input without what was read from or written to the cache, and in a stream in two
//! parts, the input as it begins and the output as it ends.

use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_core::price::{Tier, TokenUsage};
use tollgate_ledger::{Flags, Reported};

use super::{KEPT_BYTES_MAX, Report, TOKENS_MAX};

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    /// What the first event of a stream has it in.
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    /// Of the last event but one: why it ends.
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    stop_reason: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Counts {
    input_tokens: Option<i64>,
    cache_read_input_tokens: Option<i64>,
    cache_creation_input_tokens: Option<i64>,
    #[serde(default)]
    cache_creation: Option<CacheCreation>,
    output_tokens: Option<i64>,
    #[serde(default)]
    server_tool_use: Option<ServerToolUse>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct ServerToolUse {
    web_search_requests: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<i64>,
    ephemeral_1h_input_tokens: Option<i64>,
}

#[derive(Deserialize)]
struct ServiceTier<'a> {
    #[serde(borrow, default)]
    service_tier: Option<&'a RawValue>,
}

/// Reads the reports of one answer, each of which may say a part of it.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    so_far: Counts,
    tier: Option<Tier>,
    is_of_unknown_tier: bool,
    has_nonsense: bool,
}

impl Reader {
    /// Of an answer in one piece, or of one event of a stream.
    pub(crate) fn read(&mut self, json: &[u8]) -> Report {
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(json) else { return Report::default() };
        let inner = answer.message.and_then(|raw| serde_json::from_str::<Answer<'_>>(raw.get()).ok());
        let raw = answer.usage.or(inner.and_then(|inner| inner.usage)).map(RawValue::get);
        let Some(raw) = raw.filter(|raw| *raw != "null") else { return Report::default() };
        match serde_json::from_str::<Counts>(raw) {
            Ok(counts) => self.so_far = self.so_far.and(counts),
            Err(_) => self.has_nonsense = true,
        }
        let (tier, is_unknown) = served_in(raw);
        self.tier = tier.or(self.tier);
        self.is_of_unknown_tier |= is_unknown;
        let reason = answer.delta.and_then(|raw| serde_json::from_str::<Delta<'_>>(raw.get()).ok());
        let is_last_word =
            reason.and_then(|delta| delta.stop_reason).is_some_and(|reason| reason.get() != "null");
        let (usage, mut flags) = if self.has_nonsense {
            (None, Flags { absurd: true, ..Flags::default() })
        } else {
            self.so_far.believe()
        };
        flags.service_tier = self.is_of_unknown_tier;
        let usage = usage.map(|usage| TokenUsage { tier: self.tier.or(usage.tier), ..usage });
        let text = flags.is_any().then(|| raw.to_owned()).filter(|text| text.len() <= KEPT_BYTES_MAX);
        let is_last_word = is_last_word && usage.is_some();
        Report { reported: Reported { usage, flags, text }, is_only_usage: false, is_last_word }
    }
}

fn served_in(usage: &str) -> (Option<Tier>, bool) {
    let said = serde_json::from_str::<ServiceTier<'_>>(usage).ok().and_then(|usage| usage.service_tier);
    super::tier(said.map(RawValue::get))
}

impl Counts {
    /// What two reports say together. Later ones count all that came before, and none makes it less.
    fn and(self, later: Self) -> Self {
        let most = |one: Option<i64>, other: Option<i64>| match (one, other) {
            (Some(one), Some(other)) if one.min(other) < 0 => Some(one.min(other)),
            (one, other) => one.max(other),
        };
        let creation = |counts: Self| counts.cache_creation.unwrap_or_default();
        let (before, after) = (creation(self), creation(later));
        Self {
            input_tokens: most(self.input_tokens, later.input_tokens),
            cache_read_input_tokens: most(self.cache_read_input_tokens, later.cache_read_input_tokens),
            cache_creation_input_tokens: most(
                self.cache_creation_input_tokens,
                later.cache_creation_input_tokens,
            ),
            cache_creation: Some(CacheCreation {
                ephemeral_5m_input_tokens: most(
                    before.ephemeral_5m_input_tokens,
                    after.ephemeral_5m_input_tokens,
                ),
                ephemeral_1h_input_tokens: most(
                    before.ephemeral_1h_input_tokens,
                    after.ephemeral_1h_input_tokens,
                ),
            }),
            output_tokens: most(self.output_tokens, later.output_tokens),
            server_tool_use: Some(ServerToolUse {
                web_search_requests: most(self.searches(), later.searches()),
            }),
        }
    }

    fn searches(self) -> Option<i64> {
        self.server_tool_use.and_then(|tools| tools.web_search_requests)
    }

    fn believe(self) -> (Option<TokenUsage>, Flags) {
        let creation = self.cache_creation.unwrap_or_default();
        let kept = [creation.ephemeral_5m_input_tokens, creation.ephemeral_1h_input_tokens];
        let all = [
            self.input_tokens,
            self.cache_read_input_tokens,
            self.cache_creation_input_tokens,
            kept[0],
            kept[1],
            self.output_tokens,
            self.searches(),
        ];
        let mut flags = Flags::default();
        if all.iter().flatten().any(|tokens| !(0..=TOKENS_MAX).contains(tokens)) {
            flags.absurd = true;
            return (None, flags);
        }
        let (Some(plain), Some(output)) = (self.input_tokens, self.output_tokens) else {
            flags.contradictory = all.iter().flatten().any(|tokens| *tokens > 0);
            return (None, flags);
        };
        let count = |tokens: Option<i64>| tokens.unwrap_or(0).unsigned_abs();
        let parts = count(kept[0]) + count(kept[1]);
        let whole = count(self.cache_creation_input_tokens);
        flags.contradictory = parts > 0 && parts != whole;
        let (cached_input, cache_write) = (count(self.cache_read_input_tokens), parts.max(whole));
        let input = plain.unsigned_abs() + cached_input + cache_write;
        if input == 0 {
            // Nothing was ever asked with nothing.
            flags.contradictory = true;
            return (None, flags);
        }
        let usage = TokenUsage {
            input,
            cached_input,
            cache_write,
            cache_write_1h: count(kept[1]),
            output: output.unsigned_abs(),
            web_searches: count(self.searches()),
            ..TokenUsage::default()
        };
        (Some(usage), flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[&str]) -> Report {
        let mut reader = Reader::default();
        events.iter().map(|event| reader.read(event.as_bytes())).last().unwrap()
    }

    #[test]
    fn the_parts_of_the_input_are_added_up() {
        let report = read(&[
            r#"{"type":"message","usage":{"input_tokens":10,"cache_read_input_tokens":100,"cache_creation_input_tokens":50,
            "cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":30},"output_tokens":7,"service_tier":"standard"}}"#,
        ]);
        let usage = TokenUsage {
            input: 160,
            cached_input: 100,
            cache_write: 50,
            cache_write_1h: 30,
            output: 7,
            tier: Some(Tier::Usual),
            ..TokenUsage::default()
        };
        assert_eq!(report.reported, Reported { usage: Some(usage), ..Reported::default() });
    }

    #[test]
    fn a_stream_says_its_input_first_and_its_output_last() {
        let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":25,"cache_read_input_tokens":5,"output_tokens":1}}}"#;
        let early = read(&[start]);
        assert_eq!(early.reported.usage.map(|usage| (usage.input, usage.output)), Some((30, 1)));
        assert!(!early.is_last_word);
        let end =
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#;
        let last = read(&[start, end]);
        assert_eq!(
            last.reported.usage.map(|usage| (usage.input, usage.cached_input, usage.output)),
            Some((30, 5, 15))
        );
        assert!(last.is_last_word);
        let cheaper = r#"{"type":"message_delta","delta":{"stop_reason":null},"usage":{"input_tokens":1,"output_tokens":0}}"#;
        let read = read(&[start, cheaper]);
        assert_eq!(read.reported.usage.map(|usage| (usage.input, usage.output)), Some((30, 1)));
        assert!(!read.is_last_word);
    }

    #[test]
    fn nonsense_is_told_from_silence() {
        for json in ["", "[]", "{}", r#"{"usage":null}"#, r#"{"type":"ping"}"#] {
            assert_eq!(read(&[json]), Report::default(), "{json}");
        }
        for (json, absurd) in [
            (r#"{"input_tokens":-1,"output_tokens":1}"#, true),
            (r#"{"input_tokens":"1","output_tokens":1}"#, true),
            (r#"{"input_tokens":1,"output_tokens":9000000000}"#, true),
            (r#"{"input_tokens":5}"#, false),
            (r#"{"input_tokens":0,"output_tokens":3}"#, false),
        ] {
            let reported = read(&[&format!(r#"{{"usage":{json}}}"#)]).reported;
            assert_eq!(
                (reported.usage, reported.flags.absurd, reported.flags.contradictory),
                (None, absurd, !absurd),
                "{json}"
            );
            assert_eq!(reported.text.as_deref(), Some(json));
        }
        let more = r#"{"input_tokens":5,"output_tokens":1,"cache_creation_input_tokens":2,"cache_creation":{"ephemeral_1h_input_tokens":9}}"#;
        let reported = read(&[&format!(r#"{{"usage":{more}}}"#)]).reported;
        assert_eq!(
            reported.usage.map(|usage| (usage.input, usage.cache_write)),
            Some((14, 9)),
            "the dearer of the two"
        );
        assert!(reported.flags.contradictory);
        let served = |tier: &str| {
            let reported = read(&[&format!(
                r#"{{"usage":{{"input_tokens":5,"output_tokens":1,"service_tier":"{tier}"}}}}"#
            )]);
            (reported.reported.usage.unwrap().tier, reported.reported.flags.service_tier)
        };
        assert_eq!(served("priority"), (Some(Tier::Priority), false));
        assert_eq!(served("batch"), (Some(Tier::Batch), false));
        assert_eq!(served("express"), (None, true));
    }
}
