//! Changes of a request's body on its way to the upstream. All that is not named here passes as it came.

use std::borrow::Cow;
use std::ops::Range;

/// These bytes are replaced by that text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) range: Range<usize>,
    pub(crate) text: String,
}

impl Edit {
    /// Puts a field, such as `"n":1`, first into the object that `body` is.
    pub(crate) fn insert(body: &[u8], field: &str) -> Self {
        let open = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        let is_empty = body[open..].trim_ascii_start().first() == Some(&b'}');
        let comma = if is_empty { "" } else { "," };
        Self { range: open..open, text: format!("{field}{comma}") }
    }

    /// Where a piece of `body` stands in it.
    pub(crate) fn range_of(body: &[u8], piece: &str) -> Range<usize> {
        let start = piece.as_ptr().addr() - body.as_ptr().addr();
        start..start + piece.len()
    }
}

/// The body with all edits made. Several at one place come in the order given.
pub(crate) fn apply<'b>(body: &'b [u8], edits: &[Edit]) -> Cow<'b, [u8]> {
    if edits.is_empty() {
        return Cow::Borrowed(body);
    }
    let mut edits: Vec<&Edit> = edits.iter().collect();
    // What is put in at a place goes before what is replaced there.
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut edited = Vec::with_capacity(body.len() + edits.iter().map(|edit| edit.text.len()).sum::<usize>());
    let mut at = 0;
    for edit in edits {
        edited.extend_from_slice(&body[at..edit.range.start]);
        edited.extend_from_slice(edit.text.as_bytes());
        at = edit.range.end;
    }
    edited.extend_from_slice(&body[at..]);
    Cow::Owned(edited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_made_in_place_and_nothing_else_changes() {
        let body = br#" { "a" : 1, "b":[2] }"#;
        let text = std::str::from_utf8(body).unwrap();
        let edits = [
            Edit {
                range: Edit::range_of(body, &text[text.find('[').unwrap()..text.len() - 2]),
                text: "3".to_owned(),
            },
            Edit::insert(body, r#""c":4"#),
            Edit::insert(body, r#""d":5"#),
        ];
        assert_eq!(apply(body, &edits).as_ref(), br#" {"c":4,"d":5, "a" : 1, "b":3 }"#);
        let first =
            [Edit { range: 1..7, text: r#""b":2"#.to_owned() }, Edit::insert(br#"{"a" :1}"#, r#""c":4"#)];
        assert_eq!(apply(br#"{"a" :1}"#, &first).as_ref(), br#"{"c":4,"b":2}"#.as_slice());
        assert!(matches!(apply(body, &[]), Cow::Borrowed(_)));
        assert_eq!(apply(b"{ }", &[Edit::insert(b"{ }", r#""c":4"#)]).as_ref(), br#"{"c":4 }"#);
    }
}
