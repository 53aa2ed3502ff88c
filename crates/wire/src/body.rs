//! Bodies: from the wire to plain bytes, and into the frames of a streamed answer.

use std::fmt;

use bytes::{Buf, BytesMut};
use memchr::memchr;
use tollgate_core::Error;
use tollgate_core::error::Kind;

use crate::head::Framing;

/// Why a body could not be read.
#[derive(Debug)]
pub enum BodyError {
    TooLarge,
    TooSlow,
    Malformed(&'static str),
    /// The connection ended before the body did.
    CutShort(std::io::Error),
}

impl BodyError {
    /// What the sender of a request's body is told, which may have at most `bytes_max`.
    pub fn into_error(self, bytes_max: usize) -> Error {
        match self {
            Self::TooLarge => {
                let message = format!("The request body is larger than {bytes_max} bytes.");
                Error::new(Kind::PayloadTooLarge, message).code("request_too_large")
            }
            Self::TooSlow => Error::new(Kind::RequestTimeout, "The request body came too slowly."),
            error => Error::bad_request("The request body is malformed or was cut short.").source(error),
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the body is larger than allowed"),
            Self::TooSlow => f.write_str("the body came too slowly"),
            Self::Malformed(what) => f.write_str(what),
            Self::CutShort(error) => write!(f, "the body was cut short: {error}"),
        }
    }
}

impl std::error::Error for BodyError {}

/// A line that gives the size of a chunk, extensions included.
const SIZE_LINE_MAX: usize = 256;
const TRAILERS_MAX: usize = 8 * 1024;

/// Takes the framing off a body as its bytes come in.
#[derive(Clone, Debug)]
pub(crate) struct Decoder(State);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Done,
    /// So many bytes are yet to come.
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    /// After the last chunk; so many bytes of trailers were skipped.
    Trailers(usize),
    UntilClose,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Empty => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// Whether the end of the connection is a proper end of this body.
    pub(crate) fn may_end_with_connection(&self) -> bool {
        matches!(self.0, State::Done | State::UntilClose)
    }

    /// Moves what is plain body from `input` to the end of `output`.
    pub(crate) fn decode(&mut self, input: &mut BytesMut, output: &mut Vec<u8>) -> Result<(), BodyError> {
        loop {
            match self.0 {
                State::Done => return Ok(()),
                State::UntilClose => {
                    output.extend_from_slice(input);
                    input.clear();
                    return Ok(());
                }
                State::Length(left) => {
                    let left = left - take(input, left, output);
                    self.0 = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(());
                }
                State::ChunkData(left) => {
                    let left = left - take(input, left, output);
                    self.0 = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    if left > 0 {
                        return Ok(());
                    }
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers(_) => {
                    let Some(line) = take_line(input)? else { return Ok(()) };
                    self.0 = self.after_line(&line)?;
                }
            }
        }
    }

    fn after_line(&self, line: &[u8]) -> Result<State, BodyError> {
        match self.0 {
            State::ChunkSize => Ok(match chunk_size(line)? {
                0 => State::Trailers(0),
                size => State::ChunkData(size),
            }),
            State::ChunkEnd if line.is_empty() => Ok(State::ChunkSize),
            State::ChunkEnd => Err(BodyError::Malformed("a chunk is longer than its size")),
            State::Trailers(_) if line.is_empty() => Ok(State::Done),
            State::Trailers(seen) if seen + line.len() <= TRAILERS_MAX => {
                Ok(State::Trailers(seen + line.len() + 2))
            }
            _ => Err(BodyError::Malformed("the trailers are too long")),
        }
    }
}

fn take(input: &mut BytesMut, at_most: u64, output: &mut Vec<u8>) -> u64 {
    let count = input.len().min(usize::try_from(at_most).unwrap_or(usize::MAX));
    output.extend_from_slice(&input[..count]);
    input.advance(count);
    count as u64
}

/// Takes a whole line without its end; `None` if it is not all there yet.
fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, BodyError> {
    let Some(end) = memchr(b'\n', input) else {
        let is_endless = input.len() > SIZE_LINE_MAX.max(TRAILERS_MAX);
        return if is_endless {
            Err(BodyError::Malformed("a line between chunks has no end"))
        } else {
            Ok(None)
        };
    };
    let mut line = input.split_to(end + 1);
    if !line.ends_with(b"\r\n") {
        return Err(BodyError::Malformed("a line between chunks ends in a bare line feed"));
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let malformed = BodyError::Malformed("the size of a chunk is malformed");
    if line.len() > SIZE_LINE_MAX || line.contains(&b'\r') {
        return Err(malformed);
    }
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(line);
    let is_hex = !digits.is_empty() && digits.len() <= 15 && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_hex);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(malformed)
}

/// One frame of a streamed answer: its payload with room for the size before it, so that it leaves in one write.
#[derive(Debug)]
pub struct ChunkFrame(Vec<u8>);

const SIZE_ROOM: usize = 10;

impl Default for ChunkFrame {
    fn default() -> Self {
        Self(vec![b'0'; SIZE_ROOM])
    }
}

impl ChunkFrame {
    /// Where the payload is appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    pub fn payload(&self) -> &[u8] {
        &self.0[SIZE_ROOM..]
    }

    /// Keeps only the payload bytes that are not in `removed`, ranges of the payload in ascending order.
    pub fn remove(&mut self, removed: &[std::ops::Range<usize>]) {
        for range in removed.iter().rev() {
            self.0.drain(SIZE_ROOM + range.start..SIZE_ROOM + range.end);
        }
    }

    /// Takes the payload after its first `length` bytes away and returns it.
    pub fn split_off(&mut self, length: usize) -> Vec<u8> {
        self.0.split_off(SIZE_ROOM + length)
    }

    pub fn clear(&mut self) {
        self.0.truncate(SIZE_ROOM);
    }

    /// The frame as it goes onto the wire. An empty one would end the answer, so it is nothing.
    pub(crate) fn sealed(&mut self, is_chunked: bool) -> &[u8] {
        if !is_chunked || self.payload().is_empty() {
            return self.payload();
        }
        let mut size = self.payload().len();
        for digit in self.0[..SIZE_ROOM - 2].iter_mut().rev() {
            *digit = b"0123456789abcdef"[size & 15];
            size >>= 4;
        }
        self.0[SIZE_ROOM - 2..SIZE_ROOM].copy_from_slice(b"\r\n");
        self.0.extend_from_slice(b"\r\n");
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), BodyError> {
        let (mut decoder, mut input, mut output) = (Decoder::new(framing), BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            decoder.decode(&mut input, &mut output)?;
        }
        Ok((output, decoder.is_done(), input.len()))
    }

    #[test]
    fn a_chunked_body_is_the_same_however_it_is_cut() {
        let wire =
            b"4\r\nWiki\r\n006;x=y\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nTrailer: x\r\n\r\nNEXT";
        for first in 0..wire.len() {
            for second in [first, (first + 7).min(wire.len())] {
                let (body, is_done, left) =
                    decode(Framing::Chunked, &[&wire[..first], &wire[first..second], &wire[second..]])
                        .unwrap();
                assert_eq!(
                    (body.as_slice(), is_done, left),
                    (b"Wikipedia in \r\n\r\nchunks.".as_slice(), true, 4)
                );
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for wire in [
            "\r\n",
            "x\r\n",
            "4\nWiki\r\n0\r\n\r\n",
            "4\r\nWikipedia\r\n",
            "-1\r\n",
            "+4\r\nWiki\r\n",
            "0x4\r\nWiki\r\n",
            "4 \r\nWiki\r\n",
            "4\r\nWiki0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "4\r\r\nWiki\r\n",
            ";\r\n",
        ] {
            assert!(decode(Framing::Chunked, &[wire.as_bytes()]).is_err(), "{wire:?}");
        }
        let endless = vec![b'1'; 10_000];
        assert!(decode(Framing::Chunked, &[&endless]).is_err());
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(3_000));
        assert!(decode(Framing::Chunked, &[trailers.as_bytes()]).is_err());
    }

    #[test]
    fn a_body_of_known_length_ends_there() {
        let (body, is_done, left) = decode(Framing::Length(5), &[b"hel", b"loNEXT"]).unwrap();
        assert_eq!((body.as_slice(), is_done, left), (b"hello".as_slice(), true, 4));
        assert!(!decode(Framing::Length(5), &[b"hell"]).unwrap().1);
    }

    proptest! {
        #[test]
        fn what_is_framed_is_read_back(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut wire = Vec::new();
            let mut frame = ChunkFrame::default();
            for piece in &pieces {
                frame.clear();
                frame.buffer().extend_from_slice(piece);
                wire.extend_from_slice(frame.sealed(true));
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (body, is_done, _) = decode(Framing::Chunked, &[&wire]).unwrap();
            prop_assert!(is_done);
            prop_assert_eq!(body, pieces.concat());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(Framing::Chunked, &[&bytes]);
        }
    }
}
