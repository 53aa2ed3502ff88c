//! What fuzzing calls here.

use bytes::BytesMut;

use crate::body::Decoder;
use crate::head::{find_end, take_request, take_response};

/// Bytes of a client: heads and bodies in a row, as far as they can be read.
pub fn request(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(end)) = find_end(&buffer, 0) {
        let Ok(head) = take_request(&mut buffer, end) else { return };
        let (_, _, _) = (head.method().len(), head.path().len(), head.query().len());
        let _ = head.headers.keys().count();
        let mut body = Vec::new();
        let mut decoder = Decoder::new(head.framing);
        if decoder.decode(&mut buffer, &mut body).is_err() || !decoder.is_done() {
            return;
        }
        assert!(body.len() <= data.len());
    }
}

/// Bytes of an upstream.
pub fn response(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(end)) = find_end(&buffer, 0) {
        let Ok(head) = take_response(&mut buffer, end) else { return };
        let mut body = Vec::new();
        let mut decoder = Decoder::new(head.framing);
        if decoder.decode(&mut buffer, &mut body).is_err() || !decoder.is_done() {
            return;
        }
        assert!(body.len() <= data.len());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tollgate_core::fuzz::{replay, rounds};

    #[test]
    fn the_corpus_of_requests() {
        replay(Path::new("../../fuzz/corpus/request"), rounds(), super::request);
    }

    #[test]
    fn the_corpus_of_responses() {
        replay(Path::new("../../fuzz/corpus/response"), rounds(), super::response);
    }
}
