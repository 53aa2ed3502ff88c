//! The text of an API key: `sk-tgproj-`, `sk-tgsvc-` or `sk-tgadmin-`, then base 62: 12 characters of public locator,
//! 43 of secret (256 bits), 6 of CRC-32 over all before it.
//!
//! The checksum lets typos and garbage be refused without a lookup and lets scanners recognize a key offline. The
//! letters `T3BlbkFJ` never occur: scanners that know OpenAI's keys by them would send ours to OpenAI.

use std::fmt;

use crate::secret::{Secret, random_bytes};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const OPENAI_MARK: &str = "T3BlbkFJ";
const LOCATOR_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 43;
const CHECKSUM_LENGTH: usize = 6;
const BODY_LENGTH: usize = LOCATOR_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH;

/// Which door a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Owned by a user; reaches the models of one project.
    Project,
    /// Owned by a service account; reaches the models of one project.
    ServiceAccount,
    /// Reaches the administration API of one organization, never a model.
    Admin,
}

impl KeyKind {
    pub const ALL: [Self; 3] = [Self::Project, Self::ServiceAccount, Self::Admin];

    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Project => "sk-tgproj-",
            Self::ServiceAccount => "sk-tgsvc-",
            Self::Admin => "sk-tgadmin-",
        }
    }

    /// The word for this kind in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::ServiceAccount => "service_account",
            Self::Admin => "admin",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The public part of a key, by which its record is found. Holding it opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locator([u8; LOCATOR_LENGTH]);

impl Locator {
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; LOCATOR_LENGTH] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a locator is ASCII")
    }
}

impl fmt::Debug for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A newly made key: its text, shown once, and what may be stored beside its verifier.
pub struct NewKey {
    pub text: Secret,
    pub locator: Locator,
    /// `sk-tgproj-AbCd...wxyz`, for lists.
    pub redacted: String,
}

impl NewKey {
    pub fn generate(kind: KeyKind) -> Self {
        loop {
            let locator = random_locator();
            let mut text = format!("{}{}{}", kind.prefix(), locator.as_str(), base62(&random_bytes::<32>()));
            text.push_str(&checksum(&text));
            // Once in 10^12 keys; a new draw is as good as the last.
            if !text.contains(OPENAI_MARK) {
                let redacted =
                    format!("{}{}...{}", kind.prefix(), &locator.as_str()[..4], &text[text.len() - 4..]);
                return Self { text: Secret::new(text), locator, redacted };
            }
        }
    }
}

/// A text that has the shape and the checksum of a key. Whether it opens anything is yet to be verified.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a> {
    pub kind: KeyKind,
    pub locator: Locator,
    pub text: &'a str,
}

impl<'a> PresentedKey<'a> {
    pub fn parse(text: &'a str) -> Option<Self> {
        let kind = KeyKind::ALL.into_iter().find(|kind| text.starts_with(kind.prefix()))?;
        let body = &text[kind.prefix().len()..];
        if body.len() != BODY_LENGTH || !body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let (before, sum) = text.split_at(text.len() - CHECKSUM_LENGTH);
        if checksum(before) != sum {
            return None;
        }
        Locator::parse(&body[..LOCATOR_LENGTH]).map(|locator| Self { kind, locator, text })
    }
}

/// What of a refused credential may be repeated to whoever sent it: a well-known prefix, `***`, the last four
/// characters. A short text is masked whole, for there the ends would be most of it.
pub fn mask(text: &str) -> String {
    const SHOWN_FROM: usize = 20;
    const PREFIXES: [&str; 7] =
        ["sk-tgproj-", "sk-tgsvc-", "sk-tgadmin-", "sk-svcacct-", "sk-admin-", "sk-proj-", "sk-"];
    let prefix = PREFIXES.into_iter().find(|prefix| text.starts_with(prefix)).unwrap_or("");
    if text.len() < prefix.len() + SHOWN_FROM || !text.is_ascii() {
        return "***".to_owned();
    }
    let last: String = text[text.len() - 4..]
        .chars()
        .map(|letter| if letter.is_ascii_graphic() { letter } else { '?' })
        .collect();
    format!("{prefix}***{last}")
}

fn random_locator() -> Locator {
    let mut locator = [0; LOCATOR_LENGTH];
    let mut filled = 0;
    while filled < LOCATOR_LENGTH {
        // 248 is the largest multiple of 62 in a byte: beyond it some letters would be likelier than others.
        for byte in random_bytes::<24>().into_iter().filter(|byte| *byte < 248) {
            if filled < LOCATOR_LENGTH {
                locator[filled] = DIGITS[usize::from(byte % 62)];
                filled += 1;
            }
        }
    }
    Locator(locator)
}

/// 256 bits as 43 digits, most significant first.
fn base62(bytes: &[u8; 32]) -> String {
    let mut number = *bytes;
    let mut digits = [b'0'; SECRET_LENGTH];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("a quotient of bytes is a byte");
            remainder = value % 62;
        }
        *digit = DIGITS[remainder as usize];
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

fn checksum(text: &str) -> String {
    let mut sum = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(sum % 62) as usize];
        sum /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_key_has_the_documented_shape() {
        for kind in KeyKind::ALL {
            let key = NewKey::generate(kind);
            let text = key.text.reveal();
            assert_eq!(text.len(), kind.prefix().len() + 61);
            let presented = PresentedKey::parse(text).expect("its own key");
            assert_eq!((presented.kind, presented.locator), (kind, key.locator));
            assert!(
                key.redacted.starts_with(kind.prefix()) && key.redacted.ends_with(&text[text.len() - 4..])
            );
        }
    }

    #[test]
    fn any_single_changed_character_is_noticed() {
        let key = NewKey::generate(KeyKind::Project);
        let text = key.text.reveal();
        for position in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[position] = if changed[position] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(PresentedKey::parse(&changed).is_none(), "position {position}");
        }
    }

    #[test]
    fn a_mask_shows_the_prefix_and_the_last_four_of_long_texts_only() {
        assert_eq!(mask("sk-proj-0123456789012345678901234567abcd"), "sk-proj-***abcd");
        assert_eq!(mask("0123456789012345678901234567abcd"), "***abcd");
        for short in
            ["", "abcd", "sk-abcd", "my-password-1234", "sk-proj-0123456789", "ключключключключключключ"]
        {
            assert_eq!(mask(short), "***", "{short}");
        }
    }

    #[test]
    fn the_secret_uses_all_256_bits() {
        assert_eq!(base62(&[0; 32]), "0".repeat(43));
        assert_eq!(base62(&[255; 32]).len(), 43);
        let mut one = [0; 32];
        one[31] = 62;
        assert!(base62(&one).ends_with("10"));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_panic(text: String) {
            prop_assert!(PresentedKey::parse(&text).is_none());
            let _ = PresentedKey::parse(&format!("sk-tgproj-{text}"));
            let _ = mask(&text);
        }
    }
}
