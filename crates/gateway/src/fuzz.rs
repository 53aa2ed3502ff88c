//! What fuzzing calls here.

use crate::call::Call;
use crate::edit;
use crate::kept::Made;
use crate::observe::{self, Observer};
use crate::refusal;
use crate::route::Endpoint;
use crate::usage;

#[derive(serde::Deserialize)]
struct Named {
    model: Option<String>,
}

/// Events of an answer, cut where the first byte says. However they are cut, the client gets the same bytes and the same is
/// reported.
pub fn stream(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.makes_output()) {
        for strips_usage in [false, true] {
            let whole = observe::watched(Observer::new(endpoint, strips_usage, 10), &[data]);
            let pieces: Vec<&[u8]> = data.chunks(usize::from(*first) + 1).collect();
            let cut = observe::watched(Observer::new(endpoint, strips_usage, 10), &pieces);
            assert_eq!(whole, cut, "cut into pieces of {}", usize::from(*first) + 1);
            assert!(strips_usage || whole.0 == data, "what is not taken out passes as it came");
        }
    }
}

/// The body of a request, at every endpoint. What is sent on is JSON if it was, and asks for the same model.
pub fn call(data: &[u8]) {
    for endpoint in Endpoint::ALL {
        let Ok(call) = Call::read(endpoint, data, None) else { continue };
        let (text, _) = call.text(data);
        assert!(std::str::from_utf8(&text).is_ok());
        let Ok(edits) = call.edits_for_fuzzing(data) else { continue };
        let sent = edit::apply(data, &edits);
        let named: Named = serde_json::from_slice(&sent).unwrap_or_else(|error| {
            panic!("{error}: {} became {}", String::from_utf8_lossy(data), String::from_utf8_lossy(&sent))
        });
        let expected = (endpoint != Endpoint::Moderations).then_some(call.model);
        assert!(expected.is_none() || named.model == expected, "{}", String::from_utf8_lossy(data));
    }
}

/// The body of an answer.
pub fn answer(data: &[u8]) {
    for endpoint in Endpoint::ALL {
        let _ = usage::read(endpoint, data);
        let _ = observe::text_bytes(endpoint, data);
    }
    let _ = Made::read(data);
    for status in [200, 400, 401, 402, 429, 500, 503, 529] {
        let _ = refusal::told(&refusal::any_upstream(), status, None, data);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tollgate_core::fuzz::{replay, rounds};

    #[test]
    fn the_corpus_of_streams() {
        replay(Path::new("../../fuzz/corpus/stream"), rounds(), super::stream);
    }

    #[test]
    fn the_corpus_of_calls() {
        replay(Path::new("../../fuzz/corpus/call"), rounds(), super::call);
    }

    #[test]
    fn the_corpus_of_answers() {
        replay(Path::new("../../fuzz/corpus/answer"), rounds(), super::answer);
    }
}
