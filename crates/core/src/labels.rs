//! Labels of projects, service accounts, keys and requests: names with values, by which costs are told apart.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// At most [`Labels::MAX`] names with a value each. In JSON an object of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    pub const MAX: usize = 16;
    const NAME_MAX: usize = 64;
    const VALUE_MAX: usize = 128;

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether something can be the name of a label: letters of ASCII, digits, `_`, `-`, `.` and `/`.
    pub fn is_name(text: &str) -> bool {
        (1..=Self::NAME_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte))
    }

    /// Whether something can be the value of a label: 1 to 128 characters that can be shown, no blank first or last.
    pub fn is_value(text: &str) -> bool {
        (1..=Self::VALUE_MAX).contains(&text.chars().count())
            && !text.chars().any(char::is_control)
            && text.trim() == text
    }

    /// Labels as somebody sets them; `param` is where they stand.
    pub fn checked(said: &BTreeMap<String, String>, param: &str) -> Result<Self> {
        if said.len() > Self::MAX {
            let message = format!(
                "Invalid '{param}': there can be at most {} labels, but got {}.",
                Self::MAX,
                said.len()
            );
            return Err(Error::invalid(param, message));
        }
        for (name, value) in said {
            let shown: String = name.chars().take(Self::NAME_MAX).collect();
            if !Self::is_name(name) {
                let message = format!(
                    "Invalid '{param}': '{shown}' cannot be the name of a label, which is 1 to {} letters, digits, '_', '-', \
                     '.' and '/'.",
                    Self::NAME_MAX
                );
                return Err(Error::invalid(param, message));
            }
            if !Self::is_value(value) {
                let at = format!("{param}.{name}");
                let message = format!(
                    "Invalid '{at}': the value of a label is 1 to {} characters, none of them a control character and no blank first or last.",
                    Self::VALUE_MAX
                );
                return Err(Error::invalid(at, message));
            }
        }
        Ok(Self(said.clone()))
    }

    /// These, and where names are the same the others.
    pub fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// One text for the same labels.
    pub fn to_stored(&self) -> String {
        serde_json::json!(self.0).to_string()
    }

    pub fn from_stored(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|error| Error::internal(format!("stored labels cannot be read: {error}")))
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Labels as an attempt carries them: fixed when it is admitted, whatever becomes of those they are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSet {
    /// Made of the text, so that the same set has the same number everywhere; 0 is no label.
    pub number: i64,
    pub text: String,
}

impl LabelSet {
    /// `None` if there are no labels.
    pub fn of(labels: &Labels) -> Option<Self> {
        if labels.is_empty() {
            return None;
        }
        let text = labels.to_stored();
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let head = hash.as_ref().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Some(Self { number: i64::try_from(head >> 1).unwrap_or(i64::MAX).max(1), text })
    }
}

/// Which labels requests of a project may add, each with the values it may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestLabels(BTreeMap<String, Vec<String>>);

impl RequestLabels {
    const VALUES_MAX: usize = 256;

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn allows(&self, name: &str, value: &str) -> bool {
        self.0.get(name).is_some_and(|values| values.iter().any(|allowed| allowed == value))
    }

    /// As somebody sets them; `param` is where they stand.
    pub fn checked(said: &BTreeMap<String, Vec<String>>, param: &str) -> Result<Self> {
        let wrong = |at: String, what: &str| {
            let message = format!("Invalid '{at}': {what}");
            Err(Error::invalid(at, message))
        };
        if said.len() > Labels::MAX {
            return wrong(param.to_owned(), "there can be at most 16 labels.");
        }
        for (name, values) in said {
            let one = values.first().map_or("x", String::as_str);
            Labels::checked(&BTreeMap::from([(name.clone(), one.to_owned())]), param)?;
            let at = format!("{param}.{name}");
            if values.is_empty() || values.len() > Self::VALUES_MAX {
                return wrong(at, "expected 1 to 256 values.");
            }
            if !values.iter().all(|value| Labels::is_value(value)) {
                return wrong(
                    at,
                    "a value is 1 to 128 characters, none of them a control character and no blank first or last.",
                );
            }
        }
        Ok(Self(said.clone()))
    }

    pub fn to_stored(&self) -> String {
        serde_json::json!(self.0).to_string()
    }

    pub fn from_stored(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|error| Error::internal(format!("stored labels cannot be read: {error}")))
    }
}

/// What somebody sets: an object of texts, in which no name stands twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelsSaid(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for LabelsSaid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Said;
        impl<'de> Visitor<'de> for Said {
            type Value = LabelsSaid;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<LabelsSaid, A::Error> {
                let mut said = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if said.insert(name, value).is_some() {
                        return Err(A::Error::custom("a label stands in it twice"));
                    }
                }
                Ok(LabelsSaid(said))
            }
        }
        deserializer.deserialize_map(Said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(json: &str) -> Result<Labels> {
        let said: LabelsSaid =
            serde_json::from_str(json).map_err(|error| Error::bad_request(error.to_string()))?;
        Labels::checked(&said.0, "labels")
    }

    #[test]
    fn labels_are_few_and_plain() {
        let set = labels(r#"{"team":"ml","cost-center/eu":"Zürich 12"}"#).unwrap();
        assert_eq!(set.get("team"), Some("ml"));
        assert_eq!(Labels::from_stored(&set.to_stored()).unwrap(), set);
        let many: Vec<String> = (0..17).map(|number| format!("\"l{number}\":\"x\"")).collect();
        for bad in [
            format!("{{{}}}", many.join(",")),
            r#"{"":"x"}"#.to_owned(),
            r#"{"a b":"x"}"#.to_owned(),
            r#"{"a":""}"#.to_owned(),
            r#"{"a":" x"}"#.to_owned(),
            "{\"a\":\"x\\u0007\"}".to_owned(),
            format!("{{\"a\":\"{}\"}}", "x".repeat(129)),
            r#"{"a":"x","a":"y"}"#.to_owned(),
        ] {
            assert!(labels(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_labels_are_the_same_set() {
        let one = LabelSet::of(&labels(r#"{"a":"1","b":"2"}"#).unwrap()).unwrap();
        let two = LabelSet::of(&labels(r#"{"b":"2","a":"1"}"#).unwrap()).unwrap();
        let other = LabelSet::of(&labels(r#"{"b":"2","a":"3"}"#).unwrap()).unwrap();
        assert_eq!(one, two);
        assert!(one.number > 0 && one.number != other.number);
        assert_eq!(LabelSet::of(&Labels::default()), None);
    }

    #[test]
    fn what_is_nearer_goes_before() {
        let mut set = labels(r#"{"team":"ml","env":"prod"}"#).unwrap();
        set.extend(&labels(r#"{"env":"test"}"#).unwrap());
        assert_eq!(set.to_stored(), r#"{"env":"test","team":"ml"}"#);
    }
}
