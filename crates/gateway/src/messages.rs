//! What kinds of content the messages of a call have, as far as that decides what it can cost.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use tollgate_core::{Error, Result};

use crate::fields::{Raw, Text, fields};

/// The sum over all messages.
#[derive(Default)]
pub(crate) struct Messages<'a> {
    pub(crate) count: u64,
    pub(crate) images: u64,
    /// The addresses of images as they stand in the body, whose tokens are not those of a text.
    pub(crate) addresses: Vec<&'a str>,
    /// Content whose size the body does not show.
    pub(crate) has_files: bool,
    /// The first message with audio.
    pub(crate) audio_at: Option<usize>,
    /// The first with content that the provider keeps, and of what kind: its id opens it to whoever has the account.
    pub(crate) stored_at: Option<(usize, &'static str)>,
    /// The items that are only named, and by what.
    named: Vec<(usize, Raw<'a>)>,
}

const FILES: &str = "Files that the provider keeps";
const AUDIO: &str = "References to audio that the provider keeps";
/// So many items can be named instead of being sent.
const NAMED_MAX: usize = 1_000;

impl Messages<'_> {
    /// The ids of the items that are only named.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        if self.named.len() > NAMED_MAX {
            return Err(Error::invalid(
                "input",
                format!("More than {NAMED_MAX} items are only named. Send the items."),
            ));
        }
        let read = |(at, id): &(usize, Raw<'_>)| {
            let text = id.0.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
            text.ok_or_else(|| {
                let message = "Name the item by its id, which is a string, or send the item itself.";
                Error::invalid(format!("input[{at}].id"), message)
            })
        };
        self.named.iter().map(read).collect()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Messages<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Messages<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Messages<'de>, S::Error> {
                let mut messages = Messages::default();
                let mut position = 0;
                while let Some(message) = seq.next_element::<Message<'de>>()? {
                    let content = message.content.unwrap_or_default();
                    if content.has_audio {
                        messages.audio_at.get_or_insert(position);
                    }
                    // An answer of the assistant may refer to audio it gave before.
                    if is_given(message.audio) {
                        messages.stored_at.get_or_insert((position, AUDIO));
                    }
                    if content.has_stored {
                        messages.stored_at.get_or_insert((position, FILES));
                    }
                    messages.count += 1;
                    messages.images += content.images;
                    messages.addresses.extend(content.addresses);
                    messages.has_files |= content.has_files;
                    position += 1;
                }
                Ok(messages)
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}

fields! {
    struct Message {
        content: Option<Content<'a>>,
        audio: Raw<'a>,
    }
}

#[derive(Default)]
pub(crate) struct Content<'a> {
    images: u64,
    addresses: Vec<&'a str>,
    has_files: bool,
    has_audio: bool,
    /// Whether the provider keeps some of it.
    has_stored: bool,
    parts: usize,
}

fields! {
    struct Part {
        r#type: Option<Text<'a>>,
        image_url: Raw<'a>,
        file: Option<Kept>,
        file_id: Option<IgnoredAny>,
    }
}

impl Part<'_> {
    fn is_stored(&self) -> bool {
        self.file_id.is_some() || self.file.as_ref().is_some_and(|Kept(is_kept)| *is_kept)
    }
}

/// Whether a file is named by the id that the provider keeps it under.
pub(crate) struct Kept(bool);

fields! {
    struct File {
        file_id: Option<IgnoredAny>,
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        File::deserialize(deserializer).map(|file| Self(file.file_id.is_some()))
    }
}

fields! {
    struct ImageUrl {
        url: Raw<'a>,
    }
}

/// The address in an `image_url`, which is an object with one; the same as a text is common as well.
fn address(image_url: Raw<'_>) -> serde_json::Result<Option<&str>> {
    let Some(text) = image_url.0.map(serde_json::value::RawValue::get) else { return Ok(None) };
    if text.starts_with('"') {
        return Ok(Some(text));
    }
    let object: ImageUrl<'_> = serde_json::from_str(text)?;
    Ok(object.url.0.map(serde_json::value::RawValue::get).filter(|url| url.starts_with('"')))
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E>(self, _: &str) -> Result<Content<'de>, E> {
                Ok(Content::default())
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Content<'de>, S::Error> {
                let mut content = Content::default();
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    content.has_stored |= part.is_stored();
                    content.parts += 1;
                    match part.r#type.as_ref().map(|kind| kind.0.as_ref()) {
                        Some(
                            "text" | "refusal" | "input_text" | "output_text" | "summary_text"
                            | "reasoning_text",
                        ) => {}
                        Some("input_audio") => content.has_audio = true,
                        Some("image_url" | "input_image") => {
                            content.images += 1;
                            content
                                .addresses
                                .extend(address(part.image_url).map_err(serde::de::Error::custom)?);
                        }
                        _ => content.has_files = true,
                    }
                }
                Ok(content)
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(self, map: M) -> Result<Content<'de>, M::Error> {
                let part = Part::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Content { has_files: true, has_stored: part.is_stored(), ..Content::default() })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn is_given(raw: Raw<'_>) -> bool {
    raw.0.is_some_and(|raw| raw.get() != "null")
}

/// The input of a response: a text, or items, of which messages are only one kind.
#[derive(Default)]
pub(crate) struct Items<'a>(pub(crate) Messages<'a>);

fields! {
    struct Item {
        r#type: Option<Text<'a>>,
        id: Raw<'a>,
        role: Raw<'a>,
        encrypted_content: Raw<'a>,
        result: Raw<'a>,
        content: Option<Content<'a>>,
        output: Option<Content<'a>>,
        summary: Option<Content<'a>>,
    }
}

impl Item<'_> {
    /// Whether it only names what the provider keeps. The type of such an item may be left out.
    fn is_reference(&self) -> bool {
        match self.r#type.as_ref().map(|Text(kind)| kind.as_ref()) {
            // A picture that was made is only ever named, or comes with it.
            Some("item_reference") => true,
            Some("image_generation_call") => !is_given(self.result),
            None | Some("message") => is_given(self.id) && (self.content.is_none() || !is_given(self.role)),
            Some(_) => false,
        }
    }

    /// Whether all there is of it stands in the body.
    fn is_whole(&self) -> bool {
        const WHOLE: [&str; 6] = [
            "message",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "custom_tool_call_output",
            "reasoning",
        ];
        let kind = self.r#type.as_ref().map(|Text(kind)| kind.as_ref());
        !self.is_looked_up() && kind.is_none_or(|kind| WHOLE.contains(&kind))
    }

    /// Reasoning that is named and not there is looked up, as far as the provider keeps it.
    fn is_looked_up(&self) -> bool {
        let is_reasoning = self.r#type.as_ref().is_some_and(|Text(kind)| kind == "reasoning");
        let is_empty = self.encrypted_content.0.is_none_or(|raw| matches!(raw.get(), "null" | "\"\""));
        is_reasoning && is_given(self.id) && is_empty
    }

    /// Whether a provider that makes its reasoning known has put it in.
    fn shows_reasoning(&self) -> bool {
        self.content.as_ref().is_some_and(|content| content.parts > 0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Messages<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of items")
            }

            fn visit_str<E>(self, _: &str) -> Result<Messages<'de>, E> {
                Ok(Messages { count: 1, ..Messages::default() })
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Messages<'de>, S::Error> {
                let mut messages = Messages::default();
                let mut position = 0;
                while let Some(item) = seq.next_element::<Item<'de>>()? {
                    messages.count += 1;
                    messages.has_files |= !item.is_whole();
                    if item.is_reference() || item.is_looked_up() && !item.shows_reasoning() {
                        messages.named.push((position, item.id));
                    }
                    for content in [item.content, item.output, item.summary].into_iter().flatten() {
                        if content.has_stored {
                            messages.stored_at.get_or_insert((position, FILES));
                        }
                        if content.has_audio {
                            messages.audio_at.get_or_insert(position);
                        }
                        messages.images += content.images;
                        messages.addresses.extend(content.addresses);
                        messages.has_files |= content.has_files;
                    }
                    position += 1;
                }
                Ok(messages)
            }
        }
        deserializer.deserialize_any(Either).map(Items)
    }
}

/// A prompt, or the input of embeddings: texts, or tokens. Whatever else is given shows nothing of its size.
pub(crate) struct Input {
    pub(crate) is_text: bool,
    /// How many texts.
    pub(crate) count: u64,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any {
            depth: u8,
        }

        /// Whether it is text, how many, and whether it is a token.
        #[derive(Clone, Copy)]
        struct Item {
            is_text: bool,
            count: u64,
            is_token: bool,
        }

        impl<'de> serde::de::DeserializeSeed<'de> for Any {
            type Value = Item;

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl<'de> Visitor<'de> for Any {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, or an array of tokens")
            }

            fn visit_str<E>(self, _: &str) -> Result<Item, E> {
                Ok(Item { is_text: self.depth < 2, count: 1, is_token: false })
            }

            fn visit_u64<E>(self, _: u64) -> Result<Item, E> {
                Ok(Item { is_text: self.depth > 0, count: 0, is_token: true })
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Item, S::Error> {
                let mut all = Item { is_text: self.depth < 2, count: 0, is_token: false };
                let mut tokens = 0_u64;
                while let Some(item) = seq.next_element_seed(Any { depth: self.depth + 1 })? {
                    all.is_text &= item.is_text;
                    all.count += item.count;
                    tokens += u64::from(item.is_token);
                }
                // A list of tokens is one text, and so is one inside of another, whatever it has.
                all.count = if self.depth > 0 { 1 } else { all.count + u64::from(tokens > 0) };
                Ok(all)
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Item, M::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Item { is_text: false, count: 1, is_token: false })
            }
        }
        let Item { is_text, count, .. } = deserializer.deserialize_any(Any { depth: 0 })?;
        Ok(Self { is_text, count })
    }
}
