//! What may be bound to a statement and read from a row.

use tollgate_core::id::{Id, Identified, Principal};
use tollgate_core::key::Locator;
use tollgate_core::{Error, Money, Result, Timestamp, UnitPrice};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    pub(crate) const fn shape(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int(_) => "a number",
            Self::Bool(_) => "a truth value",
            Self::Text(_) => "a text",
            Self::Blob(_) => "bytes",
        }
    }
}

/// Into a [`Value`] to bind.
pub trait ToValue {
    fn to_value(&self) -> Value;
}

/// From a [`Value`] that was read. An error here means that the database holds what no version of us wrote.
pub trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

/// The values of a statement in the order of its `$1`, `$2`, ...
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { [$($crate::ToValue::to_value(&$value)),*] };
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value {
                // What does not fit is clamped: counts beyond 2^63 are reports of nonsense.
                Value::Int(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Int(number) => Self::try_from(*number).ok(),
                    _ => None,
                }
            }
        }
    )*};
}
integers!(i64, u64, usize);

macro_rules! wrapped_integers {
    ($($type:ident),*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value {
                Value::Int(self.0)
            }
        }
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                i64::from_value(value).map($type)
            }
        }
    )*};
}
wrapped_integers!(Timestamp, Money, UnitPrice);

impl ToValue for bool {
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}
impl FromValue for bool {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(*flag),
            Value::Int(number @ (0 | 1)) => Some(*number == 1),
            _ => None,
        }
    }
}

impl ToValue for str {
    fn to_value(&self) -> Value {
        Value::Text(self.to_owned())
    }
}
impl ToValue for String {
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}
impl ToValue for std::sync::Arc<str> {
    fn to_value(&self) -> Value {
        Value::Text(self.as_ref().to_owned())
    }
}
impl FromValue for String {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl ToValue for [u8] {
    fn to_value(&self) -> Value {
        Value::Blob(self.to_vec())
    }
}
impl ToValue for Vec<u8> {
    fn to_value(&self) -> Value {
        Value::Blob(self.clone())
    }
}
impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

impl<K: Identified> ToValue for Id<K> {
    fn to_value(&self) -> Value {
        Value::Text(self.to_string())
    }
}
impl<K: Identified> FromValue for Id<K> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }
}

impl ToValue for Principal {
    fn to_value(&self) -> Value {
        Value::Text(self.to_string())
    }
}
impl FromValue for Principal {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }
}

impl ToValue for Locator {
    fn to_value(&self) -> Value {
        Value::Text(self.as_str().to_owned())
    }
}
impl FromValue for Locator {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}
impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value {
        (**self).to_value()
    }
}

impl ToValue for Value {
    fn to_value(&self) -> Value {
        self.clone()
    }
}

pub(crate) fn read<T: FromValue>(value: &Value, column: &str) -> Result<T> {
    T::from_value(value).ok_or_else(|| misfit(value, column, std::any::type_name::<T>()))
}

pub(crate) fn misfit(value: &Value, column: &str, expected: &str) -> Error {
    Error::internal(format!("column {column} holds {} where {expected} is expected", value.shape()))
}
