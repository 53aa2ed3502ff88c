//! The figures that are compiled in from `data/prices.tsv`: a header that names the columns, and a line for each model.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Figures, FiguresPatch, Limits};
use crate::time::Timestamp;

/// What is known of a model without being told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Embedded {
    /// By the time from which they hold, the earliest first.
    pub(super) figures: Vec<(Timestamp, Figures)>,
    pub limits: Limits,
}

impl Embedded {
    pub fn is_known(&self) -> bool {
        !self.figures.is_empty()
    }

    pub(super) fn at(&self, at: Timestamp) -> Figures {
        let found = self.figures.iter().rev().find(|(from, _)| *from <= at);
        found.map(|(_, figures)| *figures).unwrap_or_default()
    }
}

struct Book {
    /// When the data was made, as `YYYYMMDD`.
    day: i64,
    exact: HashMap<&'static str, Embedded>,
    /// Longest first.
    prefixes: Vec<(&'static str, Embedded)>,
}

static BOOK: LazyLock<Book> =
    LazyLock::new(|| read(DATA).expect("the embedded price data is whole, as a test checks"));

const DATA: &str = include_str!("../../data/prices.tsv");

/// When the embedded data was made, as `YYYYMMDD`.
pub(super) fn day() -> i64 {
    BOOK.day
}

/// What is known of a model by its id: exact, dated (`NAME-2026-01-31`, `NAME-20260131`) or by prefix.
pub fn embedded(model: &str) -> Embedded {
    let exact = |name: &str| BOOK.exact.get(name);
    let dated = |pattern: &str| {
        let (name, date) = model.split_at_checked(model.len().checked_sub(pattern.len())?)?;
        let is_date = date.bytes().zip(pattern.bytes()).all(|(byte, expected)| match expected {
            b'-' => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
        if is_date { exact(&format!("{name}{pattern}")) } else { None }
    };
    let by_prefix =
        || BOOK.prefixes.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|(_, facts)| facts);
    exact(model)
        .or_else(|| dated("-YYYY-MM-DD"))
        .or_else(|| dated("-YYYYMMDD"))
        .or_else(by_prefix)
        .cloned()
        .unwrap_or_default()
}

fn read(data: &'static str) -> Option<Book> {
    let (comments, lines): (Vec<&str>, Vec<&str>) = data.lines().partition(|line| line.starts_with('#'));
    let day = comments.iter().find_map(|line| line.split_once(" on ")?.1.strip_suffix('.'))?;
    let day = day.replace('-', "").parse().ok()?;
    let (header, lines) = lines.split_first()?;
    let columns: Vec<&str> = header.split('\t').collect();
    let mut models: Vec<(&'static str, Embedded)> = Vec::new();
    for line in lines {
        let (name, from, figures, limits) = read_line(&columns, line)?;
        // Later prices of a model are on the lines after it.
        match models.last_mut().filter(|(last, _)| *last == name) {
            Some((_, model)) => {
                if model.figures.last().is_none_or(|(last, _)| *last >= from) {
                    return None;
                }
                model.figures.push((from, figures));
            }
            None => models.push((name, Embedded { figures: vec![(from, figures)], limits })),
        }
    }
    let mut book = Book { day, exact: HashMap::new(), prefixes: Vec::new() };
    for (name, model) in models {
        match name.strip_suffix('*') {
            Some(prefix) => book.prefixes.push((prefix, model)),
            None if book.exact.insert(name, model).is_some() => return None,
            None => {}
        }
    }
    book.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    Some(book)
}

fn read_line(columns: &[&str], line: &'static str) -> Option<(&'static str, Timestamp, Figures, Limits)> {
    let cells: Vec<&str> = line.split('\t').collect();
    if cells.len() != columns.len() {
        return None;
    }
    let (mut name, mut from, mut limits) = ("", Timestamp(i64::MIN), Limits::default());
    let mut said = serde_json::Map::new();
    for (column, cell) in columns.iter().zip(cells).filter(|(_, cell)| !cell.is_empty()) {
        match *column {
            "model" => name = cell,
            "from" => from = Timestamp::of_day(cell)?,
            "context_tokens" => limits.context_tokens = Some(cell.parse().ok()?),
            "max_output_tokens" => limits.max_output_tokens = Some(cell.parse().ok()?),
            "image_tokens" => limits.image_tokens = Some(cell.parse().ok()?),
            figure => _ = said.insert(figure.to_owned(), cell.into()),
        }
    }
    let figures: FiguresPatch = serde_json::from_value(said.into()).ok()?;
    Some((name, from, figures.apply(Figures::default(), "").ok()?, limits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::UnitPrice;

    #[test]
    fn the_embedded_data_is_whole() {
        let book = read(DATA).unwrap();
        assert!(book.exact.len() > 100 && book.day > 20_260_000);
        let models = book.exact.values().chain(book.prefixes.iter().map(|(_, model)| model));
        for figures in models.flat_map(|model| &model.figures) {
            assert!(figures.1.input_price.is_some());
        }
    }

    #[test]
    fn a_model_is_found_by_name_date_or_prefix_and_otherwise_unknown() {
        let now = Timestamp(1_790_000_000);
        let mini = embedded("gpt-4o-mini");
        assert_eq!(mini.at(now).input_price, Some(UnitPrice(150_000)));
        assert_eq!(
            (mini.limits.context_tokens, mini.limits.max_output_tokens),
            (Some(128_000), Some(16_384))
        );
        assert_eq!(
            (mini.limits.image_tokens, embedded("gpt-3.5-turbo").limits.image_tokens),
            (Some(48_169), None)
        );
        assert_eq!(embedded("gpt-6-astra-2027-01-31"), embedded("gpt-6-astra"));
        assert!(embedded("ft:gpt-4o-2024-08-06:acme").is_known());
        let rates = embedded("claude-sonnet-5-20270131").at(now);
        assert_eq!(
            (rates.cache_write_price, rates.cache_write_1h_price),
            (Some(UnitPrice(2_500_000)), Some(UnitPrice(4_000_000)))
        );
        for unknown in ["gpt-4o-2031-01-01", "llama3.1", "", "gpt-4o-mini-", "ключ-ключ-ключ"] {
            assert!(!embedded(unknown).is_known(), "{unknown}");
        }
    }

    /// Names that have misled price tables before: each of these would be charged wrongly, or as nothing, by the price of
    /// text tokens of a model that its name resembles.
    #[test]
    fn what_is_not_priced_by_text_tokens_alone_is_unknown() {
        for trap in [
            // By the minute or hour of audio.
            "whisper-1",
            "gpt-transcribe",
            "gpt-live-1",
            "gpt-live-transcribe",
            "gpt-realtime-whisper",
            "gpt-realtime-translate",
            // By the character, or with audio that has a price of its own.
            "tts-1",
            "tts-1-hd",
            "gpt-4o-mini-tts",
            "gpt-4o-transcribe",
            "gpt-4o-mini-transcribe",
            "gpt-4o-transcribe-diarize",
            "gpt-realtime",
            "gpt-realtime-mini",
            "gpt-4o-realtime-preview",
            "gpt-4o-mini-realtime-preview-2024-12-17",
            // By the image or second of video.
            "dall-e-2",
            "dall-e-3",
            "gpt-image-1",
            "gpt-image-1-mini",
            "chatgpt-image-latest",
            "sora-2",
            "sora-2-pro",
            // With a fee for each call beside the tokens.
            "gpt-4o-search-preview",
            "gpt-4o-mini-search-preview",
            "gpt-5-search-api",
            "o3-deep-research",
            "computer-use-preview",
            // Another provider's name for a model is another provider's price.
            "openai/gpt-4o",
            "azure/gpt-4o",
            "openrouter/openai/gpt-4o",
            "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "vertex_ai/claude-3-5-sonnet",
            "anthropic/claude-sonnet-5",
            "GPT-4o",
            " gpt-4o",
            "gpt-4o:free",
            "gpt-4o:nitro",
        ] {
            assert!(!embedded(trap).is_known(), "{trap}: {:?}", embedded(trap));
        }
    }
}
