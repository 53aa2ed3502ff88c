//! What is read of a request's body, as strictly as an upstream might read it differently.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tollgate_core::{Error, Result};

macro_rules! body {
    ($($name:ident: $type:ty,)*) => {
        /// The fields that are looked at, of chat completions and of embeddings. All others are passed over.
        #[derive(Default)]
        pub(crate) struct Body<'a> { $(pub(crate) $name: $type,)* _lifetime: PhantomData<&'a ()> }

        const NAMES: &[&str] = &[$(stringify!($name),)*];

        impl<'de> Visitor<'de> for BodyVisitor {
            type Value = Body<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Body<'de>, M::Error> {
                let mut body = Body::default();
                $(let mut $name = false;)*
                while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                    match key.as_ref() {
                        $(stringify!($name) => {
                            // Readers differ on which of two counts, so two are none.
                            if std::mem::replace(&mut $name, true) {
                                return Err(M::Error::duplicate_field(stringify!($name)));
                            }
                            body.$name = map.next_value()?;
                        })*
                        other => {
                            refuse_lookalike(other)?;
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(body)
            }
        }
    };
}

body! {
    model: Option<Cow<'a, str>>,
    messages: Option<Messages>,
    input: Option<IgnoredAny>,
    stream: Option<bool>,
    stream_options: Raw<'a>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    n: Option<i64>,
    service_tier: Option<Cow<'a, str>>,
    store: Option<bool>,
    modalities: Option<Vec<String>>,
    audio: Option<IgnoredAny>,
    web_search_options: Option<IgnoredAny>,
    prediction: Option<IgnoredAny>,
}

/// A value as it stands in the body, `null` included.
#[derive(Default)]
pub(crate) struct Raw<'a>(pub(crate) Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        <&'de RawValue>::deserialize(deserializer).map(|raw| Self(Some(raw)))
    }
}

struct BodyVisitor;

impl<'de: 'a, 'a> Deserialize<'de> for Body<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(BodyVisitor)
    }
}

/// A borrowed or owned text: `Cow` alone would always own.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

/// Some upstreams read the names of fields without regard to case: to them a field that this gateway passed over would
/// be the model, or the limit of the output. Two letters outside of ASCII fold to ASCII ones.
fn refuse_lookalike<E: serde::de::Error>(key: &str) -> std::result::Result<(), E> {
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    let is_lookalike = NAMES.iter().any(|name| folded.clone().eq(name.chars()));
    if is_lookalike { Err(E::unknown_field(key, &[])) } else { Ok(()) }
}

impl Body<'_> {
    /// What would be metered or priced wrongly is refused, until it is served.
    pub(crate) fn refuse_what_is_missing(&self, messages: &Messages) -> Result<()> {
        if let Some(tier) = self.service_tier.as_deref().filter(|tier| !matches!(*tier, "auto" | "default")) {
            let message = format!("The service tier '{tier}' is not served yet. Leave 'service_tier' out.");
            return Err(Error::unsupported("service_tier", message));
        }
        if self.store == Some(true) {
            let message = "Stored completions are not served. Leave 'store' out or set it to false.";
            return Err(Error::unsupported("store", message));
        }
        if self.web_search_options.is_some() {
            let message = "Hosted web search is not served yet. Leave 'web_search_options' out.";
            return Err(Error::unsupported("web_search_options", message));
        }
        let speaks = self.modalities.iter().flatten().any(|modality| modality != "text");
        if speaks || self.audio.is_some() {
            let param = if speaks { "modalities" } else { "audio" };
            return Err(Error::unsupported(param, "Audio output is not served yet."));
        }
        if let Some(at) = messages.audio_at {
            let message = "Audio input is not served yet.";
            return Err(Error::unsupported(format!("messages[{at}].content"), message));
        }
        Ok(())
    }
}

/// What kinds of content the messages have.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) has_files: bool,
    /// The first message with audio.
    audio_at: Option<usize>,
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> std::result::Result<Messages, S::Error> {
                let mut messages = Messages::default();
                let mut position = 0;
                while let Some(message) = seq.next_element::<Message>()? {
                    let content = message.content.unwrap_or_default();
                    // An answer of the assistant may refer to audio it gave before.
                    if content.has_audio || message.audio.is_some() {
                        messages.audio_at.get_or_insert(position);
                    }
                    messages.has_files |= content.has_files;
                    position += 1;
                }
                Ok(messages)
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}

#[derive(serde::Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    audio: Option<IgnoredAny>,
}

#[derive(Default)]
struct Content {
    has_files: bool,
    has_audio: bool,
}

#[derive(serde::Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<Cow<'a, str>>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E>(self, _: &str) -> std::result::Result<Content, E> {
                Ok(Content::default())
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> std::result::Result<Content, S::Error> {
                let mut content = Content::default();
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    match part.kind.as_deref() {
                        Some("text" | "refusal") => {}
                        Some("input_audio") => content.has_audio = true,
                        _ => content.has_files = true,
                    }
                }
                Ok(content)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
