//! Reading JSON objects as strictly as an upstream might read them differently: what is looked at may stand once, and
//! under its own name only.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::value::RawValue;

/// Declares an object with the fields that are looked at; all others are passed over. With `others`, the names of those
/// that are passed over and that the given function does not know are kept in that field.
macro_rules! fields {
    ($(#[$doc:meta])* struct $object:ident { $($name:ident: $type:ty,)* $(; $others:ident: not $known:path,)? }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(crate) struct $object<'a> {
            $(pub(crate) $name: $type,)*
            $(pub(crate) $others: Vec<String>,)?
            _lifetime: std::marker::PhantomData<&'a ()>,
        }

        impl<'de: 'a, 'a> serde::de::Deserialize<'de> for $object<'a> {
            fn deserialize<D: serde::de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader<'a>(std::marker::PhantomData<&'a ()>);

                impl<'de: 'a, 'a> serde::de::Visitor<'de> for Reader<'a> {
                    type Value = $object<'a>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<$object<'a>, M::Error> {
                        const NAMES: &[&str] = &[$(crate::fields::plain(stringify!($name)),)*];
                        let mut object = $object::default();
                        $(let mut $name = false;)*
                        while let Some(crate::fields::Text(key)) = map.next_key::<crate::fields::Text<'de>>()? {
                            match key.as_ref() {
                                $(name if name == crate::fields::plain(stringify!($name)) => {
                                    // Readers differ on which of two counts, so two are none.
                                    if std::mem::replace(&mut $name, true) {
                                        return Err(serde::de::Error::duplicate_field(
                                            crate::fields::plain(stringify!($name)),
                                        ));
                                    }
                                    object.$name = map.next_value()?;
                                })*
                                other => {
                                    crate::fields::refuse_lookalike(other, NAMES)?;
                                    $(if !$known(other) {
                                        object.$others.push(other.to_owned());
                                    })?
                                    map.next_value::<serde::de::IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(Reader(std::marker::PhantomData))
            }
        }
    };
}

pub(crate) use fields;

/// Content inside of content, and tools inside of tools, are read with a reader of their own each, whose own limit begins
/// anew: so deep, and no deeper.
const NESTED_MAX: u32 = 16;

/// Reads a value that stands inside of one that is being read.
pub(crate) fn nested<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    thread_local! {
        static DEPTH: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    struct Deeper;
    impl Drop for Deeper {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    if DEPTH.get() >= NESTED_MAX {
        return Err(serde::de::Error::custom("it is nested too deeply"));
    }
    DEPTH.set(DEPTH.get() + 1);
    let _deeper = Deeper;
    serde_json::from_str(text)
}

/// A field's name without the mark that keeps it from being a word of the language.
pub(crate) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// A value as it stands in the text, `null` included.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw<'a>(pub(crate) Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'de RawValue>::deserialize(deserializer).map(|raw| Self(Some(raw)))
    }
}

/// A borrowed or owned text: `Cow` alone would always own.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

/// Some upstreams read the names of fields without regard to case: to them a field that this gateway passed over would
/// be the model, or the limit of the output. Two letters outside of ASCII fold to ASCII ones.
pub(crate) fn refuse_lookalike<E: serde::de::Error>(key: &str, names: &[&str]) -> Result<(), E> {
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    let is_lookalike = names.iter().any(|name| folded.clone().eq(name.chars()));
    if is_lookalike { Err(E::unknown_field(key, &[])) } else { Ok(()) }
}
