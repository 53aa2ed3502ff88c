//! Heads of messages: parsed once, looked at in place.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr_iter;

/// Fields a head may have; more is an attack or a mistake.
pub(crate) const FIELDS_MAX: usize = 100;

/// The fields of a head, over the bytes they came in.
#[derive(Clone, Debug)]
pub struct Headers {
    bytes: Bytes,
    fields: Vec<(Range<usize>, Range<usize>)>,
}

impl Headers {
    /// All values of a field, whose name is given in lower case.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |(field, _)| self.bytes[field.clone()].eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| &self.bytes[value.clone()])
    }

    /// All fields in their order, names as they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (&self.bytes[name.clone()], &self.bytes[value.clone()]))
    }

    /// The first value of a field, if it is a text.
    pub fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    fn count(&self, name: &'static str) -> usize {
        self.all(name).count()
    }

    /// The token of `Authorization: Bearer`; the scheme is read without regard to case.
    pub fn bearer(&self) -> Option<&str> {
        self.all("authorization").next().and_then(bearer)
    }

    /// The keys that are presented. Clients of different providers have a field each: `Authorization: Bearer`, `x-api-key`,
    /// `api-key`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let plain = ["x-api-key", "api-key"].into_iter().flat_map(|name| self.all(name)).map(text);
        self.all("authorization").filter_map(bearer).chain(plain).filter(|key| !key.is_empty())
    }

    /// Whether a comma-separated field lists `token`.
    fn lists(&self, name: &'static str, token: &str) -> bool {
        self.all(name).any(|value| {
            value
                .split(|byte| *byte == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    }
}

/// What is no text is no key, and yet another one than what stands beside it.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("\u{fffd}").trim()
}

fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = text(value).split_once(|letter: char| letter.is_ascii_whitespace())?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// How the body of a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// With the connection. Only answers may.
    UntilClose,
}

#[derive(Clone, Debug)]
pub struct RequestHead {
    pub headers: Headers,
    method: Range<usize>,
    target: Range<usize>,
    pub(crate) framing: Framing,
    pub(crate) is_http_10: bool,
}

impl RequestHead {
    pub fn method(&self) -> &str {
        std::str::from_utf8(&self.headers.bytes[self.method.clone()]).unwrap_or("")
    }

    fn target(&self) -> &str {
        std::str::from_utf8(&self.headers.bytes[self.target.clone()]).unwrap_or("")
    }

    pub fn path(&self) -> &str {
        self.target().split_once('?').map_or(self.target(), |(path, _)| path)
    }

    pub fn query(&self) -> &str {
        self.target().split_once('?').map_or("", |(_, query)| query)
    }

    pub(crate) fn wants_keep_alive(&self) -> bool {
        !self.headers.lists("connection", "close")
            && (!self.is_http_10 || self.headers.lists("connection", "keep-alive"))
    }

    pub(crate) fn expects_continue(&self) -> bool {
        self.headers.lists("expect", "100-continue")
    }
}

/// Looks for the end of a head in `buffer`, of which `seen` bytes were looked at before. Bare line feeds are refused:
/// readers differ on whether they end a line.
pub(crate) fn find_end(buffer: &[u8], seen: usize) -> Result<Option<usize>, &'static str> {
    for at in memchr_iter(b'\n', &buffer[seen..]).map(|at| at + seen) {
        if at == 0 || buffer[at - 1] != b'\r' {
            return Err("A line of the head ends in a bare line feed.");
        }
        if buffer[..at].ends_with(b"\r\n\r") {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// A copy, which does not keep the buffer alive for as long as the message takes.
fn take_head(buffer: &mut BytesMut, end: usize) -> Bytes {
    let bytes = Bytes::copy_from_slice(&buffer[..end]);
    buffer.advance(end);
    bytes
}

/// Takes the head of `end` bytes from `buffer`.
pub(crate) fn take_request(buffer: &mut BytesMut, end: usize) -> Result<RequestHead, &'static str> {
    let bytes = take_head(buffer, end);
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&bytes, &mut slots) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY_FIELDS),
        _ => return Err("The head of the request is malformed."),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err("The head of the request is incomplete.");
    };
    let (method, mut target) = (span(&bytes, method.as_bytes()), span(&bytes, target.as_bytes()));
    let fields = spans(&bytes, parsed.headers);
    let headers = Headers { bytes, fields };
    let is_http_10 = minor == 0;
    check_host(&headers, is_http_10, &mut target)?;
    let framing = request_framing(&headers, is_http_10)?;
    Ok(RequestHead { headers, method, target, framing, is_http_10 })
}

pub(crate) const TOO_MANY_FIELDS: &str = "The request has too many header fields.";

/// One `Host`, and a target that is a path, or an address of that very host.
fn check_host(headers: &Headers, is_http_10: bool, target: &mut Range<usize>) -> Result<(), &'static str> {
    let hosts = headers.count("host");
    if hosts > 1 || (hosts == 0 && !is_http_10) {
        return Err("The request must have one Host header.");
    }
    let text = std::str::from_utf8(&headers.bytes[target.clone()])
        .map_err(|_| "The request target is not ASCII.")?;
    if text.contains('#') {
        return Err("The request target has a fragment.");
    }
    if text.starts_with('/') {
        return Ok(());
    }
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let scheme = if lower.starts_with("http://") {
        7
    } else if lower.starts_with("https://") {
        8
    } else {
        0
    };
    let path = text.get(scheme..).and_then(|rest| rest.find('/')).map(|at| at + scheme);
    match (scheme, path) {
        (7 | 8, Some(path))
            if headers.get("host").is_some_and(|host| host.eq_ignore_ascii_case(&text[scheme..path])) =>
        {
            target.start += path;
            Ok(())
        }
        _ => Err("The request target must be a path."),
    }
}

fn request_framing(headers: &Headers, is_http_10: bool) -> Result<Framing, &'static str> {
    let framing = framing(headers, Framing::Empty)?;
    if framing == Framing::Chunked && is_http_10 {
        return Err("HTTP/1.0 has no Transfer-Encoding.");
    }
    Ok(framing)
}

/// The one end of a message, or a refusal of a message that has two.
fn framing(headers: &Headers, without: Framing) -> Result<Framing, &'static str> {
    let lengths = headers.count("content-length");
    match (headers.count("transfer-encoding"), lengths) {
        (0, 0) => Ok(without),
        (0, 1) => {
            let digits = headers.get("content-length").unwrap_or("");
            let is_plain =
                !digits.is_empty() && digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit());
            let length = digits.parse().ok().filter(|_| is_plain).ok_or("Content-Length is not a number.")?;
            Ok(if length == 0 { Framing::Empty } else { Framing::Length(length) })
        }
        (1, 0) => match headers.get("transfer-encoding") {
            Some(coding) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => Err("The only Transfer-Encoding there is here is 'chunked'."),
        },
        _ => Err("The message has more than one length."),
    }
}

/// Undoes the percent-encoding of a part of a target; `None` if it is broken or not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes what is not plain (RFC 3986, "unreserved") in a part of a path or a query.
pub fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub headers: Headers,
    pub(crate) framing: Framing,
    pub(crate) is_reusable: bool,
}

pub(crate) fn take_response(buffer: &mut BytesMut, end: usize) -> Result<ResponseHead, &'static str> {
    let bytes = take_head(buffer, end);
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut slots) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        _ => return Err("the head of the answer is malformed"),
    }
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err("the head of the answer is incomplete");
    };
    let fields = spans(&bytes, parsed.headers);
    let headers = Headers { bytes, fields };
    let framing = match status {
        100..=199 | 204 | 304 => Framing::Empty,
        _ => framing(&headers, Framing::UntilClose).map_err(|_| "the length of the answer is ambiguous")?,
    };
    let is_reusable = framing != Framing::UntilClose && minor == 1 && !headers.lists("connection", "close");
    Ok(ResponseHead { status, headers, framing, is_reusable })
}

fn spans(bytes: &Bytes, fields: &[httparse::Header<'_>]) -> Vec<(Range<usize>, Range<usize>)> {
    fields.iter().map(|field| (span(bytes, field.name.as_bytes()), span(bytes, field.value))).collect()
}

/// Where `part`, a slice of `whole`, lies in it.
fn span(whole: &Bytes, part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<RequestHead, &'static str> {
        let mut buffer = BytesMut::from(text);
        let end = find_end(&buffer, 0)?.ok_or("no end")?;
        take_request(&mut buffer, end)
    }

    #[test]
    fn an_ordinary_head_is_read_in_place() {
        let head = parse(
            "POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: bearer  sk-1\r\n\
             Content-Length: 12\r\nConnection: Keep-Alive, Close\r\n\r\n",
        )
        .unwrap();
        assert_eq!((head.method(), head.path(), head.query()), ("POST", "/v1/chat/completions", "a=b"));
        assert_eq!(head.headers.bearer(), Some("sk-1"));
        assert_eq!(head.framing, Framing::Length(12));
        assert!(!head.wants_keep_alive());
    }

    #[test]
    fn a_message_with_two_possible_ends_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: identity",
            " Content-Length: 5",
            "X: a\r\n Content-Length: 5",
            "X: a\nContent-Length: 5",
            "Content-Length: 5\r\nHost: y",
            "Content-\u{0}Length: 5",
        ] {
            assert!(parse(&format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n")).is_err(), "{fields:?}");
        }
        assert!(parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(parse("GET / HTTP/1.1\r\n\r\n").is_err(), "no host");
        assert!(parse("GET / HTTP/2.0\r\nHost: x\r\n\r\n").is_err());
    }

    #[test]
    fn a_target_is_a_path_or_an_address_of_the_host() {
        let path = |target: &str| {
            parse(&format!("GET {target} HTTP/1.1\r\nHost: a:1\r\n\r\n")).map(|head| head.path().to_owned())
        };
        assert_eq!(path("http://A:1/v1/models").as_deref(), Ok("/v1/models"));
        for target in ["http://b:1/", "http://a:1", "*", "a:1", "x/y", "/a#b", "http://a:1@b/"] {
            assert!(path(target).is_err(), "{target}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_the_pieces_are_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        for cut in 0..text.len() {
            let first = find_end(&text[..cut], 0).unwrap();
            let second = find_end(text, cut.saturating_sub(0)).unwrap();
            assert_eq!(first.or(second), Some(27), "cut at {cut}");
        }
    }

    #[test]
    fn percent_encoding_is_undone_once() {
        assert_eq!(percent_decoded("a%2Fb%2520c").as_deref(), Some("a/b%20c"));
        for broken in ["%", "%2", "%zz", "%ff", "%+1"] {
            assert_eq!(percent_decoded(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(percent_encoded("aZ0-._~"), "aZ0-._~");
        assert_eq!(percent_encoded("a/b c%+é"), "a%2Fb%20c%25%2B%C3%A9");
    }

    proptest! {
        #[test]
        fn encoding_is_undone_by_decoding(text in any::<String>()) {
            prop_assert_eq!(percent_decoded(&percent_encoded(&text)), Some(text));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec();
            whole.extend(&bytes);
            whole.extend(b"\r\n\r\n");
            if let Ok(Some(end)) = find_end(&whole, 0) {
                let _ = take_request(&mut BytesMut::from(&whole[..]), end);
                let _ = take_response(&mut BytesMut::from(&whole[..]), end);
            }
        }
    }
}
