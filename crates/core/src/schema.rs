//! What the vocabulary looks like in JSON, for the document of the API.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::id::{Id, Identified, Principal};
use crate::labels::{Labels, LabelsSaid, RequestLabels};
use crate::money::Money;
use crate::patch::Patch;
use crate::permission::Scopes;
use crate::secret::{Secret, ShownOnce};
use crate::time::Timestamp;
use crate::upstream::{Authentication, HttpVersion, OnClientGone, OutputLimitField};

macro_rules! inline {
    ($($type:ty, $schema:expr;)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

inline! {
    Principal, json_schema!({"type": "string", "description": "The id of a user or a service account."});
    Scopes, json_schema!({"type": "array", "items": {"type": "string"}});
    Money, json_schema!({"type": "string", "description": "Dollars, with nine places."});
    Labels, json_schema!({"type": "object", "additionalProperties": {"type": "string"}});
    RequestLabels, json_schema!({
        "type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}},
    });
    LabelsSaid, json_schema!({"type": "object", "additionalProperties": {"type": "string"}});
    Timestamp, json_schema!({"type": "integer", "description": "Unix seconds."});
    Secret, json_schema!({"type": "string", "writeOnly": true});
    ShownOnce, json_schema!({"type": "string", "description": "A secret. It is shown this once."});
    Authentication, json_schema!({"type": "string", "enum": Authentication::WORDS});
    OutputLimitField, json_schema!({"type": "string", "enum": OutputLimitField::WORDS});
    HttpVersion, json_schema!({"type": "string", "enum": HttpVersion::WORDS});
    OnClientGone, json_schema!({"type": "string", "enum": OnClientGone::WORDS});
}

impl<K: Identified> JsonSchema for Id<K> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        // "service account" is ServiceAccount.
        let words = K::NAME.split_whitespace().map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_uppercase() + rest
        });
        words.collect::<String>().into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

/// A value or null; that it may be left out is the field's to say.
impl<T: JsonSchema> JsonSchema for Patch<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        Option::<T>::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Option::<T>::json_schema(generator)
    }
}
