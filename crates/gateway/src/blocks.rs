//! What kinds of content the messages of Anthropic's clients have, as far as that decides what a call can cost.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::fields::{Raw, Text, fields, nested};

/// The sum over the blocks of a text, of a message, or of all of them.
#[derive(Default)]
pub(crate) struct Blocks<'a> {
    pub(crate) images: u64,
    /// Where images come from, as it stands in the body.
    pub(crate) addresses: Vec<&'a str>,
    /// Whether there is content whose size the body does not show.
    pub(crate) has_files: bool,
    /// Whether there is content that the provider keeps.
    pub(crate) has_stored: bool,
}

impl<'a> Blocks<'a> {
    pub(crate) fn add(&mut self, other: Self) {
        self.images += other.images;
        self.addresses.extend(other.addresses);
        self.has_files |= other.has_files;
        self.has_stored |= other.has_stored;
    }

    fn of(block: &Block<'a>) -> serde_json::Result<Self> {
        let kind = block.r#type.as_ref().map(|Text(kind)| kind.as_ref());
        Ok(match kind {
            // What is cited from is cut into pieces, each of which is numbered at a price of its own.
            Some("document" | "search_result") if block.is_cited() => {
                let is_object = block.source.0.is_some_and(|raw| raw.get().starts_with('{'));
                let source: Source<'_> = if is_object { read(block.source)? } else { Source::default() };
                Self { has_files: true, has_stored: source.is_stored(), ..Self::default() }
            }
            Some("text" | "thinking" | "redacted_thinking" | "tool_use" | "search_result") => Self::default(),
            Some("tool_result") => within(block.content)?,
            Some("image") => {
                let source: Source<'_> = read(block.source)?;
                let addresses = [source.data, source.url].into_iter().filter_map(text).collect();
                Self { images: 1, addresses, has_stored: source.is_stored(), ..Self::default() }
            }
            Some("document") => {
                let source: Source<'_> = read(block.source)?;
                let has_stored = source.is_stored();
                match source.r#type.as_ref().map(|Text(kind)| kind.as_ref()) {
                    Some("text") => Self { has_stored, ..Self::default() },
                    Some("content") => Self { has_stored, ..within(source.content)? },
                    _ => Self { has_files: true, has_stored, ..Self::default() },
                }
            }
            _ => Self { has_files: true, has_stored: block.file_id.is_some(), ..Self::default() },
        })
    }
}

fields! {
    struct Block {
        r#type: Option<Text<'a>>,
        source: Raw<'a>,
        content: Raw<'a>,
        citations: Raw<'a>,
        file_id: Option<IgnoredAny>,
    }
}

impl Block<'_> {
    fn is_cited(&self) -> bool {
        self.citations.0.is_some_and(|raw| raw.get() != "null")
    }
}

fields! {
    struct Source {
        r#type: Option<Text<'a>>,
        data: Raw<'a>,
        url: Raw<'a>,
        content: Raw<'a>,
        file_id: Option<IgnoredAny>,
    }
}

impl Source<'_> {
    fn is_stored(&self) -> bool {
        self.file_id.is_some() || self.r#type.as_ref().is_some_and(|Text(kind)| kind == "file")
    }
}

fn read<'a, T: Default + Deserialize<'a>>(raw: Raw<'a>) -> serde_json::Result<T> {
    raw.0.map_or_else(|| Ok(T::default()), |raw| nested(raw.get()))
}

/// Blocks inside of a block; null is as none.
fn within(raw: Raw<'_>) -> serde_json::Result<Blocks<'_>> {
    match raw.0.map(RawValue::get) {
        None | Some("null") => Ok(Blocks::default()),
        Some(text) => nested(text),
    }
}

fn text(raw: Raw<'_>) -> Option<&str> {
    raw.0.map(RawValue::get).filter(|text| text.starts_with('"'))
}

impl<'de: 'a, 'a> Deserialize<'de> for Blocks<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Blocks<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content blocks")
            }

            fn visit_str<E>(self, _: &str) -> Result<Blocks<'de>, E> {
                Ok(Blocks::default())
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Blocks<'de>, S::Error> {
                let mut blocks = Blocks::default();
                while let Some(block) = seq.next_element::<Block<'de>>()? {
                    blocks.add(Blocks::of(&block).map_err(serde::de::Error::custom)?);
                }
                Ok(blocks)
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Blocks<'de>, M::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Blocks { has_files: true, ..Blocks::default() })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Messages, in their order.
#[derive(Default)]
pub(crate) struct Turns<'a> {
    pub(crate) count: u64,
    pub(crate) blocks: Blocks<'a>,
}

fields! {
    struct Turn {
        content: Option<Blocks<'a>>,
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Turns<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Turns<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Turns<'de>, S::Error> {
                let mut turns = Turns::default();
                while let Some(turn) = seq.next_element::<Turn<'de>>()? {
                    turns.count += 1;
                    turns.blocks.add(turn.content.unwrap_or_default());
                }
                Ok(turns)
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}

/// The tools a call offers: those that the client runs, and the first that the provider would.
#[derive(Default)]
pub(crate) struct NativeTools {
    pub(crate) count: u64,
    /// Of those that the client runs, the ones that the provider describes: so the body does not show their size.
    pub(crate) described: u64,
    pub(crate) hosted: Option<(u64, String)>,
    /// The first search of the web: its position, its type, and how often it may be run.
    pub(crate) search: Option<(u64, String, Option<u64>)>,
}

fields! {
    struct NativeTool {
        r#type: Option<Text<'a>>,
        max_uses: Option<u64>,
    }
}

impl<'de> Deserialize<'de> for NativeTools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = NativeTools;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of tools")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<NativeTools, S::Error> {
                const OF_CLIENTS: [&str; 4] = ["bash_", "text_editor_", "computer_", "memory_"];
                let mut tools = NativeTools::default();
                while let Some(tool) = seq.next_element::<NativeTool<'de>>()? {
                    match tool.r#type.as_ref().map(|Text(kind)| kind.as_ref()) {
                        None | Some("custom") => {}
                        Some(kind) if OF_CLIENTS.iter().any(|name| kind.starts_with(name)) => {
                            tools.described += 1;
                        }
                        Some(kind) if kind.starts_with("web_search_") && tools.search.is_none() => {
                            tools.search = Some((tools.count, kind.to_owned(), tool.max_uses));
                        }
                        Some(kind) => {
                            tools.hosted.get_or_insert_with(|| (tools.count, kind.to_owned()));
                        }
                    }
                    tools.count += 1;
                }
                Ok(tools)
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}
