//! Server-sent events, as far as a gateway must see them: where each ends, and what data it carries.

use std::ops::Range;

use memchr::memchr_iter;

/// The complete events in `bytes`, each with the empty line that ends it. What follows the last is not complete yet.
pub(crate) fn events(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut events = Vec::new();
    let (mut event_start, mut line_start) = (0, 0);
    for end in memchr_iter(b'\n', bytes) {
        let line = &bytes[line_start..end];
        line_start = end + 1;
        if line.is_empty() || line == b"\r" {
            events.push(event_start..line_start);
            event_start = line_start;
        }
    }
    events
}

/// The data of an event; lines of data are joined, as the standard says.
pub(crate) fn data(event: &[u8]) -> Vec<u8> {
    let mut data: Vec<u8> = Vec::new();
    for line in event.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        if !data.is_empty() {
            data.push(b'\n');
        }
        data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_end_at_empty_lines_of_either_kind() {
        let bytes = b"data: a\n\n: comment\ndata:b\r\ndata: c\r\n\r\ndata: unfinished\n";
        let events = events(bytes);
        assert_eq!(events, [0..9, 9..38]);
        assert_eq!(data(&bytes[events[1].clone()]), b"b\nc");
        assert_eq!(data(b"data: [DONE]\n\n"), b"[DONE]");
    }

    proptest! {
        #[test]
        fn events_cover_all_but_an_unfinished_tail(bytes in "(data: [a-c]{0,3}\r?\n|\r?\n|x){0,20}") {
            let bytes = bytes.as_bytes();
            let events = events(bytes);
            let mut at = 0;
            for event in &events {
                prop_assert_eq!(event.start, at);
                at = event.end;
            }
            let tail = &bytes[at..];
            prop_assert!(super::events(tail).is_empty());
        }
    }
}
