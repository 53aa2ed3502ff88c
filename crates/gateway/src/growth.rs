//! What a text may grow by before it is cut into tokens.
//!
//! A byte-level tokenizer makes at most a token of each byte. Others first bring a text into one of Unicode's normal
//! forms, which makes some letters longer: U+FDFA, three bytes, becomes a sentence of 33. For a model whose tokenizer is
//! not known to be byte-level, its bytes bound the tokens only after they have grown.

use memchr::memmem;

/// Ranges of code points and the most bytes that one of them grows by under NFC or NFKC, by Unicode 14; near neighbours
/// are joined. Later versions of Unicode do not change the forms of letters that are assigned.
const GROWING: [(u32, u32, u64); 59] = [
    (0xa8, 0xa8, 1),
    (0xaf, 0xaf, 1),
    (0xb4, 0xb4, 1),
    (0xb8, 0xb8, 1),
    (0xbc, 0xbe, 3),
    (0x13f, 0x140, 1),
    (0x149, 0x149, 1),
    (0x1c4, 0x1c6, 1),
    (0x2d8, 0x2dd, 1),
    (0x344, 0x344, 2),
    (0x37a, 0x37a, 1),
    (0x384, 0x385, 3),
    (0x587, 0x587, 2),
    (0x675, 0x678, 2),
    (0x958, 0x95f, 3),
    (0x9dc, 0x9df, 3),
    (0xa33, 0xa36, 3),
    (0xa59, 0xa5e, 3),
    (0xb5c, 0xb5d, 3),
    (0xe33, 0xe33, 3),
    (0xeb3, 0xeb3, 3),
    (0xedc, 0xedd, 3),
    (0xf43, 0xf43, 3),
    (0xf4d, 0xf4d, 3),
    (0xf52, 0xf52, 3),
    (0xf57, 0xf57, 3),
    (0xf5c, 0xf5c, 3),
    (0xf69, 0xf69, 3),
    (0xf73, 0xf79, 6),
    (0xf81, 0xf81, 3),
    (0xf93, 0xf93, 3),
    (0xf9d, 0xf9d, 3),
    (0xfa2, 0xfa2, 3),
    (0xfa7, 0xfa7, 3),
    (0xfac, 0xfac, 3),
    (0xfb9, 0xfb9, 3),
    (0x1fc1, 0x1fc1, 2),
    (0x1fcd, 0x1fcf, 2),
    (0x1fdd, 0x1fdf, 2),
    (0x1fed, 0x1fee, 2),
    (0x2033, 0x2057, 9),
    (0x2150, 0x2189, 3),
    (0x222c, 0x2230, 6),
    (0x247d, 0x2487, 1),
    (0x2a0c, 0x2a0c, 9),
    (0x2adc, 0x2adc, 2),
    (0x309b, 0x309f, 3),
    (0x30ff, 0x30ff, 3),
    (0x3200, 0x327d, 5),
    (0x32c0, 0x33fe, 15),
    (0xfa6c, 0xfa6c, 1),
    (0xfacf, 0xfb4f, 3),
    (0xfbdd, 0xfdfc, 30),
    (0xfe71, 0xfe7f, 1),
    (0xfef5, 0xfefc, 1),
    (0x1d15e, 0x1d164, 8),
    (0x1d1bb, 0x1d1c0, 8),
    (0x1f12a, 0x1f12a, 3),
    (0x1f200, 0x1f248, 5),
];

/// How many bytes the text of a JSON body may grow by.
pub(crate) fn bytes(body: &[u8]) -> u64 {
    let plain = if body.is_ascii() {
        0
    } else {
        String::from_utf8_lossy(body)
            .chars()
            .filter(|letter| !letter.is_ascii())
            .map(|letter| of(u32::from(letter)))
            .sum()
    };
    plain + escaped(body)
}

/// Of letters written as `\uXXXX`, which is longer than most of them are, but not than what the longest become. Those
/// beyond four digits are two escapes of twelve bytes, longer than anything they become.
fn escaped(body: &[u8]) -> u64 {
    const WRITTEN: u64 = 6;
    memmem::find_iter(body, b"\\u")
        .filter_map(|at| {
            let digits = std::str::from_utf8(body.get(at + 2..at + 6)?).ok()?;
            let code = u32::from_str_radix(digits, 16).ok()?;
            let itself = char::from_u32(code).map_or(0, char::len_utf8) as u64;
            Some((itself + of(code)).saturating_sub(WRITTEN))
        })
        .sum()
}

/// How many bytes a JSON body may grow by if it is written anew with a line for each value, indented by four as the chat
/// templates of some models do with tools, and a space after each colon.
pub(crate) fn layout(body: &[u8]) -> u64 {
    const INDENT: u64 = 4;
    let (mut depth, mut grown) = (0_u64, 0);
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' => {
                grown += 1;
                continue;
            }
            b',' => {}
            _ => continue,
        }
        grown += 1 + INDENT * depth;
    }
    grown
}

fn of(code: u32) -> u64 {
    let at = GROWING.partition_point(|(_, last, _)| *last < code);
    GROWING.get(at).filter(|(first, ..)| *first <= code).map_or(0, |(.., growth)| *growth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_order() {
        assert!(GROWING.windows(2).all(|pair| pair[0].1 < pair[1].0));
        assert!(GROWING.iter().all(|(first, last, _)| first <= last));
    }

    /// Lengths of the normal forms are Unicode's own.
    #[test]
    fn what_grows_is_as_long_as_its_normal_form() {
        for (text, normal) in [
            ("\u{fdfa}", 33),  // ﷺ, the longest
            ("\u{00bd}", 5),   // ½: 1⁄2
            ("\u{3300}", 12),  // ㌀: アパート
            ("\u{0e33}", 6),   // ำ, of Thai
            ("\u{1d160}", 12), // a note and its flag
            ("\u{2057}", 12),  // four primes
            ("\u{0958}", 6),   // क़
        ] {
            assert!(text.len() as u64 + bytes(text.as_bytes()) >= normal, "{text}");
        }
        assert_eq!("\u{fdfa}".len() as u64 + bytes("\u{fdfa}".as_bytes()), 33);
        assert_eq!(bytes("\u{fdfa}".repeat(10).as_bytes()), 300);
    }

    #[test]
    fn most_of_what_people_write_does_not_grow() {
        for text in [
            "Hello",
            "Größe, être, año",
            "Привет",
            "日本語 カタカナ ひらがな",
            "한국어",
            "שלום",
            "مرحبا",
            "👍🏽",
            "",
        ] {
            assert_eq!(bytes(text.as_bytes()), 0, "{text}");
        }
    }

    #[test]
    fn a_layout_is_no_longer_than_it_is_counted() {
        let value = serde_json::json!({"tools": [{"a\"{,:": {"b": [1, "]}", {}], "c": null}}], "d": {}});
        let compact = value.to_string();
        let spacious = serde_json::to_string_pretty(&value).unwrap();
        let lines = spacious.lines().map(|line| 2 * line.len() - line.trim_start().len() + 1);
        assert!(lines.sum::<usize>() as u64 <= compact.len() as u64 + layout(compact.as_bytes()));
        assert_eq!(layout(br#"{"a":1}"#), 5 + 1 + 1);
    }

    #[test]
    fn escapes_are_letters() {
        assert_eq!(bytes(br#"{"a":"\ufdfa"}"#), 27);
        assert_eq!(bytes(br#"{"a":"\u00e9\u65e5\ud83d\ude00"}"#), 0);
        assert_eq!(bytes(br#"{"a":"\uzzzz\u12"}"#), 0);
    }
}
