//! Watches a stream pass: finds the usage in it, takes out the event that the client did not ask for, and notes the
//! text that was seen, for when the usage never comes.

use std::ops::Range;

use memchr::memmem;
use tollgate_core::price::TokenUsage;
use tollgate_ledger::Dispatched;
use tollgate_wire::ChunkFrame;

use crate::{sse, usage};

/// An event longer than this is passed on without being understood.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The eyes on one stream.
pub(crate) struct Observer {
    /// Whether the event that carries only usage is ours, and not for the client.
    strips_usage: bool,
    /// The beginning of an event whose end has not come. When usage is stripped it was not sent on yet either.
    unfinished: Vec<u8>,
    pub(crate) usage: Option<TokenUsage>,
}

impl Observer {
    pub(crate) fn new(strips_usage: bool) -> Self {
        Self { strips_usage, unfinished: Vec::new(), usage: None }
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
        if self.strips_usage {
            let (removed, seen) = self.look(frame.payload(), hold);
            let length = frame.payload().len();
            if length - seen > EVENT_BYTES_MAX {
                // Not an event of any provider. It goes on as it is.
                self.strips_usage = false;
            } else {
                self.unfinished = frame.split_off(seen);
            }
            frame.remove(&removed);
            return;
        }
        self.unfinished.extend_from_slice(frame.payload());
        let whole = std::mem::take(&mut self.unfinished);
        let (_, seen) = self.look(&whole, hold);
        if whole.len() - seen <= EVENT_BYTES_MAX {
            self.unfinished.extend_from_slice(&whole[seen..]);
        }
    }

    /// What was kept back when the stream ended without finishing its last event.
    pub(crate) fn rest(&mut self, frame: &mut ChunkFrame) {
        self.begin(frame);
    }

    /// Looks at all complete events; returns those to take out and where the unfinished rest begins.
    fn look(&mut self, bytes: &[u8], hold: &mut Dispatched) -> (Vec<Range<usize>>, usize) {
        let (mut removed, mut seen) = (Vec::new(), 0);
        for event in sse::events(bytes) {
            seen = event.end;
            let text = &bytes[event.clone()];
            if mentions_usage(text) {
                let report = usage::read(&sse::data(text));
                self.usage = report.usage.or(self.usage);
                if self.strips_usage && report.is_only_usage {
                    removed.push(event);
                    continue;
                }
            }
            if let Some(text_bytes) = text_bytes(text) {
                hold.observe(text_bytes);
            }
        }
        (removed, seen)
    }
}

/// Whether an event has a usage object, before anything is parsed.
fn mentions_usage(event: &[u8]) -> bool {
    memmem::find_iter(event, b"\"usage\"").any(|at| {
        let rest = event[at + 7..].trim_ascii_start();
        rest.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().first() == Some(&b'{'))
    })
}

/// How much text of the model an event carries, escapes included; `None` if none.
fn text_bytes(event: &[u8]) -> Option<u64> {
    const TEXTS: [&[u8]; 4] =
        [b"\"content\":", b"\"arguments\":", b"\"reasoning_content\":", b"\"refusal\":"];
    let length: usize = TEXTS
        .iter()
        .flat_map(|name| memmem::find_iter(event, name).map(|at| string_length(&event[at + name.len()..])))
        .sum();
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

    #[test]
    fn only_a_usage_object_is_worth_parsing() {
        assert!(mentions_usage(br#"data: {"usage": {"prompt_tokens":1}}"#));
        assert!(!mentions_usage(br#"data: {"usage":null}"#));
        assert!(!mentions_usage(br#"data: {"content":"\"usage\" is"}"#));
    }

    #[test]
    fn text_is_measured_in_every_place_it_comes_in() {
        assert_eq!(text_bytes(br#"data: {"delta":{"content":"abc"}}"#), Some(3));
        assert_eq!(text_bytes(br#"data: {"delta":{"content": "a\"b"}}"#), Some(4));
        assert_eq!(
            text_bytes(br#"data: {"delta":{"tool_calls":[{"function":{"arguments":"{}"}}]}}"#),
            Some(2)
        );
        assert_eq!(text_bytes(br#"data: {"delta":{"content":""}}"#), None);
        assert_eq!(text_bytes(br#"data: {"delta":{"content":null}}"#), None);
    }
}
