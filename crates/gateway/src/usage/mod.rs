//! Usage as upstreams report it, and what of it can be believed.

pub(crate) mod anthropic;

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tollgate_core::price::{Tier, TokenUsage};
use tollgate_ledger::{Flags, Reported};

use crate::route::Endpoint;

/// More tokens than any request can have: a report beyond it is nonsense.
const TOKENS_MAX: i64 = 1_000_000_000;
/// So much of a report that is odd is kept.
const KEPT_BYTES_MAX: usize = 2_000;

/// Types of the events that end a response's stream.
pub(crate) const LAST_EVENTS: [&str; 3] =
    [r#""response.completed""#, r#""response.incomplete""#, r#""response.failed""#];

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    /// Only whether there are any matters.
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    service_tier: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    /// The items of a response.
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    /// What the last event of a response's stream has it in.
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    total_tokens: Option<i64>,
    prompt_tokens_details: Option<InputDetails>,
    completion_tokens_details: Option<OutputDetails>,
    // The names of responses. Some say both, and mean one of them.
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    input_tokens_details: Option<InputDetails>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the wire")]
struct InputDetails {
    cached_tokens: Option<i64>,
    cache_write_tokens: Option<i64>,
    audio_tokens: Option<i64>,
    image_tokens: Option<i64>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the wire")]
struct OutputDetails {
    reasoning_tokens: Option<i64>,
    audio_tokens: Option<i64>,
    image_tokens: Option<i64>,
}

/// What an answer, or one event of a stream, says of usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) reported: Reported,
    /// Whether it carries usage and nothing else, as the extra event at the end of a stream does.
    pub(crate) is_only_usage: bool,
    /// Whether nothing is made after it.
    pub(crate) is_last_word: bool,
}

pub(crate) fn read(endpoint: Endpoint, json: &[u8]) -> Report {
    if endpoint.is_native() {
        return anthropic::Reader::default().read(json);
    }
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(json) else { return Report::default() };
    match answer.response.filter(|_| endpoint == Endpoint::Responses && answer.usage.is_none()) {
        None => of_answer(endpoint, &answer),
        // Only its last event says what a response has used in all. One that failed may say nothing.
        Some(response) if answer.kind.is_some_and(|kind| LAST_EVENTS.contains(&kind.get())) => {
            let Ok(response) = serde_json::from_str::<Answer<'_>>(response.get()) else {
                return Report::default();
            };
            let report = of_answer(endpoint, &response);
            Report { is_last_word: report.reported.usage.is_some(), ..report }
        }
        Some(_) => Report::default(),
    }
}

fn of_answer(endpoint: Endpoint, answer: &Answer<'_>) -> Report {
    let Some(raw) = answer.usage.map(RawValue::get).filter(|raw| *raw != "null") else {
        return Report::default();
    };
    let (usage, mut flags) = match serde_json::from_str::<Usage>(raw) {
        Ok(usage) => believe(endpoint, &usage),
        Err(_) => (None, Flags { absurd: true, ..Flags::default() }),
    };
    let (tier, is_unknown) = tier(answer.service_tier.map(RawValue::get));
    flags.service_tier = is_unknown;
    let web_searches = answer.output.filter(|_| endpoint == Endpoint::Responses).map_or(0, searches);
    let usage = usage.map(|usage| TokenUsage { tier, web_searches, ..usage });
    let text = flags.is_any().then(|| raw.to_owned()).filter(|text| text.len() <= KEPT_BYTES_MAX);
    let is_only_usage = usage.is_some() && answer.choices.as_ref().is_some_and(Vec::is_empty);
    Report { reported: Reported { usage, flags, text }, is_only_usage, is_last_word: is_only_usage }
}

/// How often the provider searched for a response. To open a page that was found costs nothing more.
fn searches(output: &RawValue) -> u64 {
    #[derive(Deserialize)]
    struct Item<'a> {
        #[serde(borrow, default, rename = "type")]
        kind: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        action: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Action<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
    }
    static CALL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"web_search_call"));
    if CALL.find(output.get().as_bytes()).is_none() {
        return 0;
    }
    let is_free = |action: &RawValue| {
        serde_json::from_str::<Action<'_>>(action.get()).is_ok_and(|action| action.kind != "search")
    };
    let items: Vec<Item<'_>> = serde_json::from_str(output.get()).unwrap_or_default();
    let is_charged = |item: &&Item<'_>| {
        item.kind.as_deref() == Some("web_search_call") && !item.action.is_some_and(is_free)
    };
    items.iter().filter(is_charged).count() as u64
}

/// The tier that an answer says it was served in, and whether it is one of which nothing is known.
fn tier(said: Option<&str>) -> (Option<Tier>, bool) {
    match said.map(|text| text.trim_matches('"')) {
        None | Some("null" | "auto") => (None, false),
        Some("default" | "standard") => (Some(Tier::Usual), false),
        Some(word) => (Tier::parse(word), Tier::parse(word).is_none()),
    }
}

/// Reads a report so that no part of it makes it cheaper than another part says.
fn believe(endpoint: Endpoint, usage: &Usage) -> (Option<TokenUsage>, Flags) {
    let mut flags = Flags::default();
    let inputs = usage.prompt_tokens_details.as_ref().or(usage.input_tokens_details.as_ref());
    let outputs = usage.completion_tokens_details.as_ref().or(usage.output_tokens_details.as_ref());
    let reasoning = outputs.and_then(|details| details.reasoning_tokens);
    // Nothing that one says makes the other cheaper, and nonsense in either is nonsense.
    let of_both = |one: Option<i64>, other: Option<i64>| match (one, other) {
        (Some(one), Some(other)) if one.min(other) < 0 => Some(one.min(other)),
        (one, other) => one.max(other),
    };
    let prompt_tokens = of_both(usage.prompt_tokens, usage.input_tokens);
    let completion_tokens = of_both(usage.completion_tokens, usage.output_tokens);
    let cached = inputs.and_then(|details| details.cached_tokens);
    let written = inputs.and_then(|details| details.cache_write_tokens);
    let heard = inputs.and_then(|details| details.audio_tokens);
    let spoken = outputs.and_then(|details| details.audio_tokens);
    let seen = inputs.and_then(|details| details.image_tokens);
    let drawn = outputs.and_then(|details| details.image_tokens);
    let all = [
        prompt_tokens,
        completion_tokens,
        usage.total_tokens,
        reasoning,
        cached,
        written,
        heard,
        spoken,
        seen,
        drawn,
    ];
    if all.iter().flatten().any(|tokens| !(0..=TOKENS_MAX).contains(tokens)) {
        flags.absurd = true;
        return (None, flags);
    }
    let makes_output = endpoint.makes_output();
    let (Some(input), Some(output)) = (prompt_tokens, completion_tokens.or((!makes_output).then_some(0)))
    else {
        // Half a report is no report, unless it is none at all.
        flags.contradictory = all.iter().flatten().any(|tokens| *tokens > 0);
        return (None, flags);
    };
    if input == 0 {
        // Nothing was ever asked with nothing.
        flags.contradictory = true;
        return (None, flags);
    }
    let mut output = output;
    if let Some(total) = usage.total_tokens.filter(|total| *total != input + output) {
        // Some leave the tokens of reasoning out of the output, and bill them as output all the same.
        flags.contradictory = total != input + output + reasoning.unwrap_or(0);
        output = output.max(total - input);
    }
    let (cached, written) = (cached.unwrap_or(0), written.unwrap_or(0));
    flags.contradictory |= cached + written > input || reasoning.is_some_and(|reasoning| reasoning > output);
    let (heard, spoken) = (heard.unwrap_or(0), spoken.unwrap_or(0));
    let (seen, reasoning) = (seen.unwrap_or(0), reasoning.unwrap_or(0));
    let made = spoken + drawn.unwrap_or(0);
    flags.contradictory |= heard + seen > input || made > output;
    output = output.max(reasoning).max(made);
    let count = |tokens: i64| tokens.unsigned_abs();
    let usage = TokenUsage {
        input: count(input),
        cached_input: count(cached),
        cache_write: count(written),
        audio_input: count(heard),
        image_input: count(seen),
        output: count(output),
        reasoning: count(reasoning),
        audio_output: count(spoken),
        image_output: drawn.map(count),
        ..TokenUsage::default()
    };
    (Some(usage), flags)
}

/// A report that says nothing was made, of an answer that has text, contradicts what everybody saw.
pub(crate) fn unless_seen(reported: Reported, has_text: impl FnOnce() -> bool) -> Reported {
    if reported.usage.is_some_and(|usage| usage.output == 0) && has_text() {
        let flags = Flags { contradictory: true, ..reported.flags };
        let text = reported.text.or_else(|| {
            reported
                .usage
                .map(|usage| format!("{{\"prompt_tokens\":{},\"completion_tokens\":0}}", usage.input))
        });
        return Reported { usage: None, flags, text };
    }
    reported
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(json: &str) -> Report {
        read(Endpoint::ChatCompletions, json.as_bytes())
    }

    fn usage(input: u64, output: u64) -> TokenUsage {
        TokenUsage { input, output, ..TokenUsage::default() }
    }

    #[test]
    fn usage_is_read_with_its_details() {
        let report = chat(
            r#"{"choices":[{"x":1}],"service_tier":"default","usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,
                "prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":null}}"#,
        );
        let usage = TokenUsage {
            input: 10,
            cached_input: 4,
            output: 3,
            tier: Some(Tier::Usual),
            ..TokenUsage::default()
        };
        assert_eq!(report.reported, Reported { usage: Some(usage), ..Reported::default() });
        assert!(!report.is_only_usage);
        let embeddings = read(
            Endpoint::Embeddings,
            br#"{"object":"list","data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
        );
        assert_eq!(embeddings.reported.usage.unwrap().input, 8);
        assert!(chat(r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#).is_only_usage);
    }

    #[test]
    fn a_response_says_what_it_used_in_its_last_event() {
        let read = |json: &str| read(Endpoint::Responses, json.as_bytes());
        let usage_ = r#"{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":7,"total_tokens":12}"#;
        let whole = read(&format!(r#"{{"usage":{usage_}}}"#)).reported.usage.unwrap();
        assert_eq!((whole.input, whole.cached_input, whole.output), (5, 2, 7));
        for kind in ["completed", "incomplete", "failed"] {
            let report = read(&format!(r#"{{"type":"response.{kind}","response":{{"usage":{usage_}}}}}"#));
            assert!(report.is_last_word && report.reported.usage == Some(whole), "{kind}");
        }
        let early = read(&format!(r#"{{"type":"response.created","response":{{"usage":{usage_}}}}}"#));
        assert_eq!(early, Report::default());
        let deep = format!("{}{}", r#"{"response":"#.repeat(50_000), "}".repeat(50_000));
        assert_eq!(
            read(&format!(r#"{{"type":"response.completed","response":{deep}1{}"#, "}")),
            Report::default()
        );
    }

    #[test]
    fn searches_are_counted_and_what_follows_them_is_not() {
        let read = |items: &str| {
            let answer = format!(r#"{{"usage":{{"input_tokens":5,"output_tokens":7}},"output":[{items}]}}"#);
            read(Endpoint::Responses, answer.as_bytes()).reported.usage.unwrap().web_searches
        };
        assert_eq!(read(""), 0);
        assert_eq!(read(r#"{"type":"message","content":[{"text":"web_search_call"}]}"#), 0);
        let search = r#"{"type":"web_search_call","id":"ws_1","status":"completed","action":{"type":"search","query":"x"}}"#;
        let opened = r#"{"type":"web_search_call","action":{"type":"open_page","url":"x"}}"#;
        let silent = r#"{"type":"web_search_call","status":"completed"}"#;
        assert_eq!(read(&[search, opened, silent, search].join(",")), 3);
    }

    #[test]
    fn of_two_ways_to_say_it_the_larger_counts() {
        let both = r#"{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6,"input_tokens":0,"output_tokens":0,"input_tokens_details":null}"#;
        let reported = chat(&format!(r#"{{"usage":{both}}}"#)).reported;
        assert_eq!((reported.usage, reported.flags.is_any()), (Some(usage(5, 1)), false));
        assert!(
            chat(r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"input_tokens":-1}}"#)
                .reported
                .flags
                .absurd
        );
    }

    #[test]
    fn a_report_is_never_read_cheaper_than_any_part_of_it_says() {
        for (json, expected) in [
            // Reasoning beside the output, as some report it: no contradiction.
            (
                r#"{"prompt_tokens":5,"completion_tokens":5,"total_tokens":5010,"completion_tokens_details":{"reasoning_tokens":5000}}"#,
                (usage(5, 5005), false),
            ),
            (r#"{"prompt_tokens":5,"completion_tokens":5,"total_tokens":100}"#, (usage(5, 95), true)),
            (r#"{"prompt_tokens":5,"completion_tokens":5,"total_tokens":7}"#, (usage(5, 5), true)),
            (
                r#"{"prompt_tokens":5,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":9}}"#,
                (usage(5, 9), true),
            ),
        ] {
            let reported = chat(&format!(r#"{{"usage":{json}}}"#)).reported;
            let read = TokenUsage { reasoning: 0, ..reported.usage.unwrap() };
            assert_eq!((read, reported.flags.contradictory), expected, "{json}");
            assert_eq!(reported.text.is_some(), expected.1, "what is odd is kept");
        }
        let cached = chat(
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":50}}}"#,
        );
        assert!(cached.reported.flags.contradictory && cached.reported.usage.is_some());
    }

    #[test]
    fn nonsense_is_no_usage_and_is_told_from_silence() {
        for json in ["", "[]", "{}", r#"{"usage":null}"#, r#"{"usage":{}}"#, r#"{"usage":{"x":1}}"#] {
            assert_eq!(chat(json), Report::default(), "{json}");
        }
        for (json, absurd) in [
            (r#"{"prompt_tokens":-1,"completion_tokens":1}"#, true),
            (r#"{"prompt_tokens":1,"completion_tokens":-5}"#, true),
            (r#"{"prompt_tokens":1.5,"completion_tokens":1}"#, true),
            (r#"{"prompt_tokens":9000000000,"completion_tokens":1}"#, true),
            (r#"{"prompt_tokens":"3","completion_tokens":1}"#, true),
            (r#"{"prompt_tokens":3}"#, false),
            (r#"{"prompt_tokens":0,"completion_tokens":0}"#, false),
            (r#"{"prompt_tokens":0,"completion_tokens":7}"#, false),
        ] {
            let reported = chat(&format!(r#"{{"usage":{json}}}"#)).reported;
            let flags = reported.flags;
            assert_eq!(
                (reported.usage, flags.absurd, flags.contradictory),
                (None, absurd, !absurd),
                "{json}"
            );
            assert_eq!(reported.text.as_deref(), Some(json));
        }
        assert_eq!(chat(r#"{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":0}}"#).reported.usage, None);
    }

    #[test]
    fn a_tier_of_another_price_is_told() {
        let said = |tier: &str| {
            let usage = r#""usage":{"prompt_tokens":1,"completion_tokens":1}"#;
            let reported = chat(&format!(r#"{{"service_tier":{tier},{usage}}}"#)).reported;
            (reported.usage.unwrap().tier, reported.flags)
        };
        assert_eq!(said(r#""priority""#), (Some(Tier::Priority), Flags::default()));
        assert_eq!(said("null"), (None, Flags::default()));
        let (tier, flags) = said(r#""scale""#);
        assert_eq!(tier, None);
        assert!(flags.service_tier && !flags.contradictory);
    }

    #[test]
    fn no_output_of_an_answer_that_has_some_is_not_believed() {
        let nothing = Reported { usage: Some(usage(5, 0)), ..Reported::default() };
        assert_eq!(unless_seen(nothing.clone(), || false), nothing);
        let told = unless_seen(nothing, || true);
        assert!(told.usage.is_none() && told.flags.contradictory && told.text.is_some());
    }
}
