//! Values on PostgreSQL's wire, in its binary formats.

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Error, Row};

use crate::value::Value;

type Fault = Box<dyn std::error::Error + Sync + Send>;

/// A value that is bound. What type it has the server says.
#[derive(Debug)]
pub(super) struct Bound<'v>(pub(super) &'v Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self, to: &Type, out: &mut BytesMut) -> Result<IsNull, Fault> {
        match (self.0, to) {
            (Value::Null, _) => Ok(IsNull::Yes),
            (Value::Int(number), &Type::INT8) => number.to_sql(to, out),
            (Value::Bool(flag), &Type::BOOL) => flag.to_sql(to, out),
            // As a column of the embedded database holds it.
            (Value::Int(number @ (0 | 1)), &Type::BOOL) => (*number == 1).to_sql(to, out),
            (Value::Text(text), &(Type::TEXT | Type::VARCHAR | Type::NAME | Type::UNKNOWN)) => {
                text.as_str().to_sql(&Type::TEXT, out)
            }
            (Value::Blob(bytes), &Type::BYTEA) => bytes.as_slice().to_sql(to, out),
            (value, to) => Err(format!("{} is bound where {to} is expected", value.shape()).into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value that is read.
struct Read(Value);

impl<'r> FromSql<'r> for Read {
    fn from_sql(of: &Type, raw: &'r [u8]) -> Result<Self, Fault> {
        let value = match *of {
            Type::INT8 => Value::Int(i64::from_sql(of, raw)?),
            Type::INT4 => Value::Int(i32::from_sql(of, raw)?.into()),
            Type::INT2 => Value::Int(i16::from_sql(of, raw)?.into()),
            Type::NUMERIC => Value::Int(whole_number(raw)?),
            Type::BOOL => Value::Bool(bool::from_sql(of, raw)?),
            Type::BYTEA => Value::Blob(raw.to_vec()),
            Type::TEXT | Type::VARCHAR | Type::NAME | Type::UNKNOWN => {
                Value::Text(std::str::from_utf8(raw)?.to_owned())
            }
            ref other => return Err(format!("a query returned {other}").into()),
        };
        Ok(Self(value))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Fault> {
        Ok(Self(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Reads a column, into memory that is there where it is a text or bytes.
pub(super) fn read_into(slot: &mut Value, row: &Row, at: usize) -> Result<(), Error> {
    match (&mut *slot, row.columns()[at].type_()) {
        (Value::Text(old), &Type::TEXT) => {
            if let Some(text) = row.try_get::<_, Option<&str>>(at)? {
                old.clear();
                old.push_str(text);
                return Ok(());
            }
        }
        (Value::Blob(old), &Type::BYTEA) => {
            if let Some(bytes) = row.try_get::<_, Option<&[u8]>>(at)? {
                old.clear();
                old.extend_from_slice(bytes);
                return Ok(());
            }
        }
        _ => {}
    }
    *slot = row.try_get::<_, Read>(at)?.0;
    Ok(())
}

/// A NUMERIC, which is what the server makes of a sum: digits to the base of 10,000.
fn whole_number(raw: &[u8]) -> Result<i64, Fault> {
    let word = |at: usize| raw.get(2 * at..2 * at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    let header = (word(0), word(1), word(2));
    let (Some(digits), Some(weight), Some(sign)) = header else { return Err("a number is cut off".into()) };
    let weight = i16::from_be_bytes(weight.to_be_bytes());
    let mut number: i128 = 0;
    for at in 0..i32::from(digits).max(i32::from(weight) + 1).min(16) {
        let digit = if at < i32::from(digits) {
            word(4 + usize::try_from(at)?).ok_or("a number is cut off")?
        } else {
            0
        };
        if at > i32::from(weight) {
            if digit != 0 {
                return Err("a query returned a number with a fraction".into());
            }
            continue;
        }
        number = number * 10_000 + i128::from(digit);
    }
    match sign {
        0 => {}
        0x4000 => number = -number,
        _ => return Err("a query returned what is not a number".into()),
    }
    i64::try_from(number).map_err(|_| "a sum is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(words: &[u16]) -> Result<i64, String> {
        let raw: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        whole_number(&raw).map_err(|error| error.to_string())
    }

    #[test]
    fn sums_are_whole_numbers() {
        assert_eq!(numeric(&[0, 0, 0, 0]), Ok(0));
        assert_eq!(numeric(&[1, 0, 0, 0, 42]), Ok(42));
        // Zeros at the end are left out on the wire.
        assert_eq!(numeric(&[1, 2, 0, 0, 3]), Ok(300_000_000));
        assert_eq!(numeric(&[2, 1, 0x4000, 0, 1, 5]), Ok(-10_005));
        assert_eq!(numeric(&[5, 4, 0, 0, 922, 3372, 368, 5477, 5807]), Ok(i64::MAX));
        for wrong in [
            &[5, 4, 0, 0, 922, 3372, 368, 5477, 5808][..],
            &[1, 0xffff, 0, 2, 5000],
            &[0, 0, 0xc000, 0],
            &[3, 0],
        ] {
            assert!(numeric(wrong).is_err(), "{wrong:?}");
        }
    }
}
