//! Watches a stream pass: finds the usage in it, takes out the event that the client did not ask for, and notes the
//! text that was seen, for when the usage never comes.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use tollgate_core::price::TokenUsage;
use tollgate_ledger::{Dispatched, Reported};
use tollgate_wire::ChunkFrame;

use crate::kept::Made;
use crate::route::Endpoint;
use crate::{sse, usage};

/// An event longer than this is passed on without being understood.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Text of a provider's answer per token, by the usual rule of thumb.
const BYTES_PER_TOKEN: u64 = 4;

/// The eyes on one stream.
pub(crate) struct Observer {
    endpoint: Endpoint,
    /// Whether the event that carries only usage is ours, and not for the client.
    strips_usage: bool,
    /// The beginning of an event whose end has not come. When usage is stripped it was not sent on yet either.
    unfinished: Vec<u8>,
    input_estimate: u64,
    seen: Seen,
    /// What Anthropic's events have said, each a part.
    native: usage::anthropic::Reader,
    reported: Reported,
    /// Whether anything was generated after the last report. Some upstreams report again and again while they generate.
    is_overtaken: bool,
    /// Whether the last report came in an event of its own, after which nothing is generated.
    is_last_word: bool,
    /// The text that had been seen when the client left.
    seen_by_client: Option<u64>,
    /// The response that the stream is of, as its first event names it, and its last.
    made: Option<Made>,
}

/// Output that passed by.
#[derive(Clone, Copy, Default)]
struct Seen {
    pieces: u64,
    text_bytes: u64,
    /// Searches that the provider began.
    searches: u64,
}

impl Seen {
    fn tokens(self) -> u64 {
        // Providers mostly send a token a piece; those that send more show it by the length.
        self.pieces.max(self.text_bytes.div_ceil(BYTES_PER_TOKEN))
    }
}

impl Observer {
    pub(crate) fn new(endpoint: Endpoint, strips_usage: bool, input_estimate: u64) -> Self {
        Self {
            endpoint,
            strips_usage,
            unfinished: Vec::new(),
            input_estimate,
            seen: Seen::default(),
            native: usage::anthropic::Reader::default(),
            reported: Reported::default(),
            is_overtaken: false,
            is_last_word: false,
            seen_by_client: None,
            made: None,
        }
    }

    /// Prepares a frame for the next piece of the stream.
    pub(crate) fn begin(&mut self, frame: &mut ChunkFrame) {
        frame.clear();
        if self.strips_usage {
            // Kept back so far: it may have been the beginning of what has to go.
            frame.buffer().append(&mut self.unfinished);
        }
    }

    /// Looks at a frame that was filled, and takes from it what is not for the client.
    pub(crate) fn watch(&mut self, frame: &mut ChunkFrame, hold: &mut Dispatched) {
        self.pass(frame);
        if let Some(observed) = self.observed() {
            hold.observe(observed);
        }
    }

    fn pass(&mut self, frame: &mut ChunkFrame) {
        if self.strips_usage {
            let (removed, seen) = self.look(frame.payload());
            let length = frame.payload().len();
            if length - seen > EVENT_BYTES_MAX {
                // Not an event of any provider. It goes on as it is.
                self.strips_usage = false;
            } else {
                self.unfinished = frame.split_off(seen);
            }
            frame.remove(&removed);
        } else {
            self.unfinished.extend_from_slice(frame.payload());
            let whole = std::mem::take(&mut self.unfinished);
            let (_, seen) = self.look(&whole);
            if whole.len() - seen <= EVENT_BYTES_MAX {
                self.unfinished.extend_from_slice(&whole[seen..]);
            }
        }
    }

    /// What was kept back when the stream ended without finishing its last event.
    pub(crate) fn rest(&mut self, frame: &mut ChunkFrame) {
        self.begin(frame);
    }

    /// The response that the stream is of, when its name has come, and again when its items have.
    pub(crate) fn made(&mut self) -> Option<Made> {
        self.made.take()
    }

    /// The client has left; what is generated from now on nobody reads.
    pub(crate) fn client_left(&mut self) {
        self.seen_by_client.get_or_insert(self.seen.text_bytes);
    }

    /// What the upstream said it used, if that is the whole of it. `is_whole`: the stream came to its end.
    pub(crate) fn report(self, is_whole: bool) -> Reported {
        let is_complete = self.is_last_word || is_whole && !self.is_overtaken;
        let reported = usage::unless_seen(self.reported.clone(), || self.seen.text_bytes > 0);
        let usage = reported.usage.filter(|_| is_complete).map(|usage| self.split(usage));
        Reported { usage, ..reported }
    }

    /// Usage by what was seen so far; `None` if nothing was.
    fn observed(&self) -> Option<TokenUsage> {
        if self.seen.pieces == 0 && self.seen.searches == 0 {
            return None;
        }
        let reported = self.reported.usage.unwrap_or_default();
        Some(self.split(TokenUsage {
            input: if reported.input > 0 { reported.input } else { self.input_estimate },
            output: self.seen.tokens().max(reported.output),
            drained_output: 0,
            web_searches: reported.web_searches.max(self.seen.searches),
            ..reported
        }))
    }

    /// Tells the output that the client saw from the output that was made after it had left, by their text.
    fn split(&self, usage: TokenUsage) -> TokenUsage {
        let Some(before) = self.seen_by_client else { return usage };
        let (all, output) = (u128::from(self.seen.text_bytes.max(1)), u128::from(usage.output));
        let read = (output * u128::from(before)).div_ceil(all);
        TokenUsage {
            drained_output: usage.output - u64::try_from(read).unwrap_or(u64::MAX).min(usage.output),
            ..usage
        }
    }

    /// Looks at all complete events; returns those to take out and where the unfinished rest begins.
    fn look(&mut self, bytes: &[u8]) -> (Vec<Range<usize>>, usize) {
        let (mut removed, mut seen) = (Vec::new(), 0);
        for event in sse::events(bytes) {
            seen = event.end;
            let text = &bytes[event.clone()];
            if self.endpoint == Endpoint::Responses && tells_response(text) {
                self.made = Made::of_event(&sse::data(text));
            }
            self.seen.searches += u64::from(begins_search(self.endpoint, text));
            let text_bytes = text_of_event(self.endpoint, text);
            if let Some(text_bytes) = text_bytes {
                self.seen.pieces += 1;
                self.seen.text_bytes += text_bytes;
                self.is_overtaken = true;
                self.is_last_word = false;
            }
            if mentions_usage(text) {
                let data = sse::data(text);
                let report = if self.endpoint.is_native() {
                    self.native.read(&data)
                } else {
                    usage::read(self.endpoint, &data)
                };
                if report.reported != Reported::default() {
                    self.is_last_word = report.is_last_word;
                    self.reported = report.reported;
                    self.is_overtaken = false;
                }
                if self.strips_usage && report.is_only_usage {
                    removed.push(event);
                }
            }
        }
        (removed, seen)
    }
}

/// What a client gets of a stream that comes in `pieces`, and what is reported of it.
pub(crate) fn watched(mut observer: Observer, pieces: &[&[u8]]) -> (Vec<u8>, Reported) {
    let (mut frame, mut passed) = (ChunkFrame::default(), Vec::new());
    for piece in pieces {
        observer.begin(&mut frame);
        frame.buffer().extend_from_slice(piece);
        observer.pass(&mut frame);
        passed.extend_from_slice(frame.payload());
    }
    observer.rest(&mut frame);
    passed.extend_from_slice(frame.payload());
    (passed, observer.report(true))
}

/// Whether an event is the first of a response's or the last, before anything is parsed.
fn tells_response(event: &[u8]) -> bool {
    const FIRST: [&str; 2] = [r#""response.created""#, r#""response.queued""#];
    static TELLING: LazyLock<Vec<Finder<'static>>> = LazyLock::new(|| {
        FIRST.iter().chain(&usage::LAST_EVENTS).map(|name| Finder::new(name).into_owned()).collect()
    });
    TELLING.iter().any(|name| name.find(event).is_some())
}

/// Whether an event says that the provider searches now.
fn begins_search(endpoint: Endpoint, event: &[u8]) -> bool {
    static OF_RESPONSE: LazyLock<Finder<'static>> =
        LazyLock::new(|| Finder::new(br#""response.web_search_call.searching""#));
    static OF_MESSAGE: LazyLock<Finder<'static>> =
        LazyLock::new(|| Finder::new(br#""type":"server_tool_use""#));
    match endpoint {
        Endpoint::Responses => OF_RESPONSE.find(event).is_some(),
        Endpoint::Messages => OF_MESSAGE.find(event).is_some(),
        _ => false,
    }
}

/// Whether an event has a usage object, before anything is parsed.
fn mentions_usage(event: &[u8]) -> bool {
    static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
    USAGE.find_iter(event).any(|at| {
        let rest = event[at + 7..].trim_ascii_start();
        rest.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().first() == Some(&b'{'))
    })
}

/// How much text of the model an event carries, escapes included; `None` if none.
fn text_of_event(endpoint: Endpoint, event: &[u8]) -> Option<u64> {
    // The stream of a response says each piece as it is made, and all of them again as each part is done.
    static DELTA: LazyLock<[Finder<'static>; 1]> = LazyLock::new(|| ["delta"].map(named));
    match endpoint {
        Endpoint::Responses => length_of(&*DELTA, event),
        _ => text_bytes(endpoint, event),
    }
}

/// The same of an answer in one piece.
pub(crate) fn text_bytes(endpoint: Endpoint, answer: &[u8]) -> Option<u64> {
    static CHAT: LazyLock<[Finder<'static>; 6]> = LazyLock::new(|| {
        ["content", "arguments", "reasoning_content", "reasoning", "refusal", "transcript"].map(named)
    });
    static TEXT: LazyLock<[Finder<'static>; 3]> =
        LazyLock::new(|| ["text", "arguments", "refusal"].map(named));
    static BLOCKS: LazyLock<[Finder<'static>; 3]> =
        LazyLock::new(|| ["text", "thinking", "partial_json"].map(named));
    match endpoint {
        Endpoint::ChatCompletions => length_of(&*CHAT, answer),
        Endpoint::Messages => length_of(&*BLOCKS, answer),
        _ => length_of(&*TEXT, answer),
    }
}

fn named(name: &str) -> Finder<'static> {
    Finder::new(&format!("\"{name}\":")).into_owned()
}

fn length_of(names: &[Finder<'static>], json: &[u8]) -> Option<u64> {
    let of = |name: &Finder<'static>| {
        let lengths = name.find_iter(json).map(|at| string_length(&json[at + name.needle().len()..]));
        lengths.sum::<usize>()
    };
    let length: usize = names.iter().map(of).sum();
    (length > 0).then_some(length as u64)
}

/// The length of the JSON string that `bytes` begin with; 0 if they begin with something else.
fn string_length(bytes: &[u8]) -> usize {
    let Some(text) = bytes.trim_ascii_start().strip_prefix(b"\"") else { return 0 };
    let mut is_escaped = false;
    text.iter()
        .position(|byte| {
            let ends = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            ends
        })
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(events: &[&str]) -> Observer {
        let mut observer = Observer::new(Endpoint::ChatCompletions, false, 100);
        for event in events {
            observer.look(format!("data: {event}\n\n").as_bytes());
        }
        observer
    }

    const TEXT: &str = r#"{"choices":[{"delta":{"content":"12345678"}}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#;

    #[test]
    fn only_a_usage_object_is_worth_parsing() {
        assert!(mentions_usage(br#"data: {"usage": {"prompt_tokens":1}}"#));
        assert!(!mentions_usage(br#"data: {"usage":null}"#));
        assert!(!mentions_usage(br#"data: {"content":"\"usage\" is"}"#));
    }

    #[test]
    fn text_is_measured_in_every_place_it_comes_in() {
        assert_eq!(text_bytes(Endpoint::ChatCompletions, br#"data: {"delta":{"content":"abc"}}"#), Some(3));
        assert_eq!(text_bytes(Endpoint::ChatCompletions, br#"data: {"delta":{"content": "a\"b"}}"#), Some(4));
        assert_eq!(text_bytes(Endpoint::ChatCompletions, br#"data: {"delta":{"reasoning":"abc"}}"#), Some(3));
        assert_eq!(text_bytes(Endpoint::Completions, br#"data: {"choices":[{"text":"abc"}]}"#), Some(3));
        let both = br#"data: {"delta":{"reasoning":"abc","reasoning_details":[{"text":"abc"}]}}"#;
        assert_eq!(text_bytes(Endpoint::ChatCompletions, both), Some(3), "said twice and made once");
        let event = br#"id: 1
data: {"type":"response.output_text.delta","delta":"abc","text":"abcdef"}"#;
        assert_eq!(text_of_event(Endpoint::Responses, event), Some(3));
        assert_eq!(text_bytes(Endpoint::Responses, br#"{"output":[{"content":[{"text":"abc"}]}]}"#), Some(3));
        assert_eq!(
            text_bytes(
                Endpoint::ChatCompletions,
                br#"data: {"delta":{"tool_calls":[{"function":{"arguments":"{}"}}]}}"#
            ),
            Some(2)
        );
        assert_eq!(text_bytes(Endpoint::ChatCompletions, br#"data: {"delta":{"content":""}}"#), None);
        assert_eq!(text_bytes(Endpoint::ChatCompletions, br#"data: {"delta":{"content":null}}"#), None);
    }

    #[test]
    fn the_last_word_counts_even_if_the_stream_is_cut_after_it() {
        let report = seen(&[TEXT, USAGE]).report(false);
        assert_eq!(report.usage.map(|usage| (usage.input, usage.output)), Some((5, 7)));
    }

    #[test]
    fn a_report_in_the_middle_of_a_cut_stream_is_no_whole_report() {
        let early =
            r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#;
        let cut = seen(&[early, TEXT, TEXT]);
        assert_eq!(cut.observed().map(|usage| (usage.input, usage.output)), Some((5, 5)), "(1 + 8 + 8) / 4");
        assert_eq!(cut.report(false).usage, None);
        assert_eq!(seen(&[early, TEXT]).report(true).usage, None, "what came after it was not counted");
        // At a whole end with nothing after it, a report in the last piece of text is the whole of it.
        assert_eq!(seen(&[TEXT, early]).report(true).usage.unwrap().output, 1);
        assert_eq!(seen(&[TEXT, early]).report(false).usage, None);
    }

    #[test]
    fn a_report_of_nothing_is_not_believed_when_there_was_text() {
        let nothing = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":0}}"#;
        let report = seen(&[TEXT, nothing]).report(true);
        assert!(report.usage.is_none() && report.flags.contradictory);
    }

    #[test]
    fn output_after_the_client_left_is_told_apart_by_its_text() {
        let mut observer = seen(&[TEXT]);
        observer.client_left();
        for event in [TEXT, TEXT, TEXT, USAGE] {
            observer.look(format!("data: {event}\n\n").as_bytes());
        }
        let usage = observer.report(true).usage.unwrap();
        assert_eq!((usage.output, usage.drained_output), (7, 5), "a quarter of seven was read, rounded up");
    }
}
