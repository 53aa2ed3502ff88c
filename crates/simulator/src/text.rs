//! Texts and their tokens.

use tiktoken_rs::o200k_base_singleton;

/// Tokens of a text, as the o200k models count them.
pub(crate) fn count(text: &str) -> u64 {
    o200k_base_singleton().encode_ordinary(text).len() as u64
}

/// Words that are one token each, with the space before them.
const WORDS: [&str; 16] = [
    " the", " answer", " is", " not", " from", " a", " real", " model", " but", " it", " has", " as",
    " many", " words", " and", " tokens",
];

/// A text of exactly so many tokens, by the piece.
pub(crate) fn pieces(tokens: u64) -> impl Iterator<Item = &'static str> {
    (0..tokens).map(|at| WORDS[usize::try_from(at).unwrap_or(0) % WORDS.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_text_has_as_many_tokens_as_it_was_asked_for() {
        for tokens in [0, 1, 7, 16, 17, 100, 1_000] {
            assert_eq!(count(&pieces(tokens).collect::<String>()), tokens);
        }
    }
}
