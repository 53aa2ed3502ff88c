//! What an operation is called with: the names in its path, and its query or its body, as one input.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::{Map, Value};
use tollgate_core::id::{Id, Identified};
use tollgate_core::{Error, Result, input};

use crate::query::{Query, QueryValue};

/// Values by name. Of a query all are texts and are read as what the input wants.
#[derive(Debug)]
pub(crate) enum Arguments {
    Query(Query),
    Body(Map<String, Value>),
}

impl Arguments {
    /// Adds what the path names. A body or query that gives one of these names gives an unknown parameter.
    pub(crate) fn with_path(mut self, names: &[(String, String)]) -> Result<Self> {
        for (name, value) in names {
            let is_taken = match &mut self {
                Self::Query(query) => query.insert(name.clone(), QueryValue::Text(value.clone())).is_some(),
                Self::Body(body) => body.insert(name.clone(), Value::String(value.clone())).is_some(),
            };
            if is_taken {
                let message = format!("Unknown parameter: '{name}'.");
                return Err(Error::bad_request(message).code("unknown_parameter").param(name));
            }
        }
        Ok(self)
    }

    pub(crate) fn read<I: DeserializeOwned>(self) -> Result<I> {
        match self {
            Self::Query(query) => query.read(),
            Self::Body(body) => input::from_value(Value::Object(body)),
        }
    }
}

/// The id of something in a path. One that cannot be an id is as absent as one that does not exist.
pub(crate) struct PathId<K>(Option<Id<K>>);

impl<K: Identified> PathId<K> {
    /// One that is known to be an id.
    pub(crate) fn of(id: Id<K>) -> Self {
        Self(Some(id))
    }

    pub(crate) fn id(&self) -> Result<Id<K>> {
        self.0.ok_or_else(|| Error::not_found(K::NAME))
    }
}

impl<'de, K: Identified> Deserialize<'de> for PathId<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Id::parse(&text)))
    }
}

impl<K: Identified> JsonSchema for PathId<K> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        Id::<K>::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Id::<K>::json_schema(generator)
    }
}

/// In which direction a list goes, by when its items were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    #[default]
    Asc,
    Desc,
}

impl Order {
    /// What the ids of a page lie beyond: the id it begins after, or one before all ids. A condition that is always a
    /// comparison lets the index begin there, however far down the list that is.
    pub(crate) fn beyond<K: Identified>(self, after: Option<Id<K>>) -> String {
        let first = match self {
            Self::Asc => "",
            Self::Desc => "~",
        };
        after.map_or_else(|| first.to_owned(), |id| id.to_string())
    }
}

/// A name people give: 1 to 255 characters, not only spaces, nothing invisible.
pub(crate) fn name(param: &'static str, name: &str) -> Result<String> {
    text(param, name, 255)
}

pub(crate) fn text(param: &'static str, text: &str, length_max: usize) -> Result<String> {
    let length = text.chars().count();
    if text.trim().is_empty() {
        let message = format!("Invalid '{param}': it must not be empty.");
        return Err(Error::invalid(param, message).code("string_below_min_length"));
    }
    if length > length_max {
        let message = format!("Invalid '{param}': at most {length_max} characters, but got {length}.");
        return Err(Error::invalid(param, message).code("string_above_max_length"));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(
            param,
            format!("Invalid '{param}': it must not have control characters."),
        ));
    }
    Ok(text.to_owned())
}

/// A number of seconds until something expires: up to a year.
pub(crate) fn expires_in(value: i64) -> Result<i64> {
    seconds("expires_in_seconds", value)
}

pub(crate) fn seconds(param: &'static str, seconds: i64) -> Result<i64> {
    const YEAR: i64 = 31_536_000;
    if (1..=YEAR).contains(&seconds) {
        return Ok(seconds);
    }
    let message = format!("Invalid '{param}': expected a value from 1 to {YEAR}, but got {seconds}.");
    let code = if seconds < 1 { "integer_below_min_value" } else { "integer_above_max_value" };
    Err(Error::invalid(param, message).code(code))
}
