//! Query strings in all the spellings that OpenAI's clients use: `a=1&a=2`, `a[]=1&a[]=2`, `a=1,2`, `t[gte]=1`.

use std::collections::BTreeMap;

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use tollgate_core::{Error, Result};
use tollgate_wire::percent_decoded;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryValue {
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
}

/// Values of one list. A longer one is no question that a person or a client of OpenAI's asks.
const LIST_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Query(BTreeMap<String, QueryValue>);

impl Query {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let broken = || Error::bad_request("The query string is not properly percent-encoded.");
            let (name, value) = (decoded(name).ok_or_else(broken)?, decoded(value).ok_or_else(broken)?);
            query.add(&name, value)?;
        }
        Ok(query)
    }

    /// Of names and values in the spellings of a query; a name given again makes a list.
    pub(crate) fn of(pairs: Vec<(String, String)>) -> Result<Self> {
        let mut query = Self::default();
        for (name, value) in pairs {
            query.add(&name, value)?;
        }
        Ok(query)
    }

    fn add(&mut self, name: &str, value: String) -> Result<()> {
        if let Some((name, key)) = name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            if key.is_empty() { self.add_to_list(name, value) } else { self.add_to_map(name, key, value) }
        } else {
            self.add_plain(name, value);
            Ok(())
        }
    }

    /// A name given once is a text; given again it becomes a list.
    fn add_plain(&mut self, name: &str, value: String) {
        match self.0.get_mut(name) {
            Some(QueryValue::List(list)) => list.push(value),
            Some(QueryValue::Text(first)) => {
                let first = std::mem::take(first);
                self.0.insert(name.to_owned(), QueryValue::List(vec![first, value]));
            }
            _ => {
                self.0.insert(name.to_owned(), QueryValue::Text(value));
            }
        }
    }

    fn add_to_list(&mut self, name: &str, value: String) -> Result<()> {
        match self.0.entry(name.to_owned()).or_insert_with(|| QueryValue::List(Vec::new())) {
            QueryValue::List(list) => list.push(value),
            _ => return Err(mixed(name)),
        }
        Ok(())
    }

    fn add_to_map(&mut self, name: &str, key: &str, value: String) -> Result<()> {
        match self.0.entry(name.to_owned()).or_insert_with(|| QueryValue::Map(BTreeMap::new())) {
            QueryValue::Map(map) => map.insert(key.to_owned(), value),
            _ => return Err(mixed(name)),
        };
        Ok(())
    }

    pub(crate) fn insert(&mut self, name: String, value: QueryValue) -> Option<QueryValue> {
        self.0.insert(name, value)
    }

    pub(crate) fn read<I: DeserializeOwned>(self) -> Result<I> {
        let deserializer = MapDeserializer::<_, serde_json::Error>::new(self.0.into_iter());
        serde_path_to_error::deserialize(deserializer)
            .map_err(|error| tollgate_core::input::explain(error.path(), &error.inner().to_string()))
    }
}

fn mixed(name: &str) -> Error {
    Error::invalid(name, format!("Invalid '{name}': it is given in two ways."))
}

/// Undoes form encoding; `None` if it is broken or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    percent_decoded(&text.replace('+', " "))
}

/// Reads a query's text as what the input wants there.
struct TextReader(String);

impl IntoDeserializer<'_, serde_json::Error> for QueryValue {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl IntoDeserializer<'_, serde_json::Error> for TextReader {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! from_text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
            match self {
                Self::Text(text) => TextReader(text).$method(visitor),
                // A name given once too often is told by what was expected.
                Self::List(list) => SeqDeserializer::new(list.into_iter().map(TextReader)).deserialize_any(visitor),
                Self::Map(map) => map_reader(map).deserialize_any(visitor),
            }
        }
    )*};
}

type MapReader = MapDeserializer<'static, std::vec::IntoIter<(String, TextReader)>, serde_json::Error>;

fn map_reader(map: BTreeMap<String, String>) -> MapReader {
    let pairs: Vec<_> = map.into_iter().map(|(key, value)| (key, TextReader(value))).collect();
    MapDeserializer::new(pairs.into_iter())
}

impl<'de> Deserializer<'de> for QueryValue {
    type Error = serde_json::Error;

    from_text! { deserialize_any deserialize_bool deserialize_i64 deserialize_u64 deserialize_str deserialize_string }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
        let list = match self {
            Self::List(list) => list,
            Self::Text(text) => text.split(',').map(str::to_owned).collect(),
            Self::Map(map) => return map_reader(map).deserialize_any(visitor),
        };
        if list.len() > LIST_MAX {
            return Err(de::Error::custom(format_args!("at most {LIST_MAX} values, but got {}", list.len())));
        }
        SeqDeserializer::new(list.into_iter().map(TextReader)).deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        match self {
            Self::Map(map) => map_reader(map).deserialize_any(visitor),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        match self {
            Self::Text(text) => TextReader(text).deserialize_enum(name, variants, visitor),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier
        ignored_any
    }
}

impl<'de> Deserializer<'de> for TextReader {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
        match self.0.as_str() {
            "true" | "True" | "1" => visitor.visit_bool(true),
            "false" | "False" | "0" => visitor.visit_bool(false),
            other => Err(de::Error::invalid_type(de::Unexpected::Str(other), &visitor)),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
        match self.0.parse() {
            Ok(number) => visitor.visit_i64(number),
            Err(_) => Err(de::Error::invalid_type(de::Unexpected::Str(&self.0), &"an integer")),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        StringDeserializer::new(self.0).deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Input {
        limit: Option<i64>,
        #[serde(default)]
        group_by: Vec<Group>,
        #[serde(default)]
        include_archived: bool,
        effective_at: Option<Range>,
        after: Option<String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Group {
        ProjectId,
        Model,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Range {
        gte: Option<i64>,
        lt: Option<i64>,
    }

    fn read(text: &str) -> Result<Input> {
        Query::parse(text)?.read()
    }

    #[test]
    fn lists_come_in_every_spelling() {
        for text in [
            "group_by=project_id&group_by=model",
            "group_by[]=project_id&group_by[]=model",
            "group_by=project_id,model",
            "group_by%5B%5D=project_id&group_by%5B%5D=model",
        ] {
            assert_eq!(read(text).unwrap().group_by, [Group::ProjectId, Group::Model], "{text}");
        }
        assert_eq!(read("group_by=model").unwrap().group_by, [Group::Model]);
        assert_eq!(read("").unwrap().group_by, []);
    }

    #[test]
    fn texts_are_read_as_what_is_wanted() {
        let input =
            read("limit=5&include_archived=true&effective_at[gte]=1&effective_at[lt]=2&after=a%20b+c")
                .unwrap();
        assert_eq!((input.limit, input.include_archived), (Some(5), true));
        assert_eq!(input.effective_at, Some(Range { gte: Some(1), lt: Some(2) }));
        assert_eq!(input.after.as_deref(), Some("a b c"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, param) in [
            ("limit=x", "limit"),
            ("limit=1&limit=2", "limit"),
            ("limit=", "limit"),
            ("include_archived=maybe", "include_archived"),
            ("group_by=nonsense", "group_by[0]"),
            ("unknown=1", "unknown"),
            ("effective_at[gte]=x", "effective_at.gte"),
            ("effective_at[foo]=1", "effective_at.foo"),
            ("effective_at=1", "effective_at"),
            ("group_by=model&group_by[x]=1", "group_by"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{text}: {}", error.message);
        }
        assert!(read("a=%zz").is_err() && read("a=%").is_err() && read("%ff=1").is_err());
    }
}
