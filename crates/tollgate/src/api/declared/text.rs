//! A text of the file that knows where it stands, and what is wrong with it.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_saphyr::Spanned;

/// A text, and the line of the file that it stands in; 0 for one that is from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    text: String,
    pub(super) line: u64,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self { text: value, line: referenced.line() })
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text, line: 0 }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// What is wrong with the meaning of a file, and where.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) line: u64,
    message: String,
}

impl Wrong {
    /// `field` is the one that the message is about.
    pub(super) fn at(line: u64, field: &str, message: impl fmt::Display) -> Self {
        Self { line, message: format!("{field}: {message}") }
    }

    /// With the file before it, as compilers write it.
    pub(super) fn of(&self, file: &str) -> String {
        format!("{}{}", place(file, self.line), self.message)
    }
}

/// Where something stands, before what is said of it.
pub(super) fn place(file: &str, line: u64) -> String {
    if line == 0 { String::new() } else { format!("{file}:{line}: ") }
}
