//! A field of an update: left out, set to null, or given a value.

use serde::{Deserialize, Deserializer};

/// Needs `#[serde(default)]` on the field, so that absence is told from null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Patch<T> {
    #[default]
    Absent,
    Null,
    Value(T),
}

impl<T> Patch<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|value| value.map_or(Self::Null, Self::Value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_null_and_value_are_three_things() {
        #[derive(Deserialize)]
        struct Update {
            #[serde(default)]
            name: Patch<String>,
        }
        let name = |text: &str| serde_json::from_str::<Update>(text).unwrap().name;
        assert_eq!(name("{}"), Patch::Absent);
        assert_eq!(name(r#"{"name":null}"#), Patch::Null);
        assert_eq!(name(r#"{"name":"x"}"#), Patch::Value("x".into()));
    }
}
