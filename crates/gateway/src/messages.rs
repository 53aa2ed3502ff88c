//! What kinds of content the messages of a call have, as far as that decides what it can cost.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::fields::{Raw, Text, fields};

/// The sum over all messages.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) images: u64,
    /// Bytes that the addresses of images take in the body, whose tokens are not those of a text.
    pub(crate) image_bytes: u64,
    /// Content whose size the body does not show.
    pub(crate) has_files: bool,
    /// The first message with audio.
    pub(crate) audio_at: Option<usize>,
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Messages, S::Error> {
                let mut messages = Messages::default();
                let mut position = 0;
                while let Some(message) = seq.next_element::<Message<'de>>()? {
                    let content = message.content.unwrap_or_default();
                    // An answer of the assistant may refer to audio it gave before.
                    if content.has_audio || message.audio.is_some() {
                        messages.audio_at.get_or_insert(position);
                    }
                    messages.images += content.images;
                    messages.image_bytes += content.image_bytes;
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
        content: Option<Content>,
        audio: Option<IgnoredAny>,
    }
}

#[derive(Default)]
pub(crate) struct Content {
    images: u64,
    image_bytes: u64,
    has_files: bool,
    has_audio: bool,
}

fields! {
    struct Part {
        r#type: Option<Text<'a>>,
        image_url: Raw<'a>,
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E>(self, _: &str) -> Result<Content, E> {
                Ok(Content::default())
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Content, S::Error> {
                let mut content = Content::default();
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    match part.r#type.as_ref().map(|kind| kind.0.as_ref()) {
                        Some("text" | "refusal") => {}
                        Some("input_audio") => content.has_audio = true,
                        Some("image_url") => {
                            content.images += 1;
                            content.image_bytes += part.image_url.length();
                        }
                        _ => content.has_files = true,
                    }
                }
                Ok(content)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The tools a call offers.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    pub(crate) count: usize,
    /// The first that the provider runs itself, at a fee of its own: its position and its type.
    pub(crate) hosted: Option<(usize, String)>,
}

fields! {
    struct Tool {
        r#type: Option<Text<'a>>,
    }
}

impl<'de> Deserialize<'de> for Tools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Tools;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of tools")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Tools, S::Error> {
                let mut tools = Tools::default();
                while let Some(tool) = seq.next_element::<Tool<'de>>()? {
                    if let Some(Text(kind)) = &tool.r#type
                        && !matches!(kind.as_ref(), "function" | "custom")
                    {
                        tools.hosted.get_or_insert_with(|| (tools.count, kind.clone().into_owned()));
                    }
                    tools.count += 1;
                }
                Ok(tools)
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}
