//! A row that was read.

use std::sync::Arc;

use tollgate_core::{Error, Result};

use crate::value::{FromValue, Value, misfit, read};

/// Values by the names of their columns.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) columns: Arc<[String]>,
    pub(crate) values: Vec<Value>,
}

impl Row {
    pub fn get<T: FromValue>(&self, column: &str) -> Result<T> {
        match self.columns.iter().position(|name| name == column) {
            Some(position) => read(&self.values[position], column),
            None => Err(Error::internal(format!("a query does not return the column {column}"))),
        }
    }

    /// The value at a position, for the few statements run so often that names would cost.
    pub fn at<T: FromValue>(&self, position: usize) -> Result<T> {
        match self.values.get(position) {
            Some(value) => read(value, &self.columns[position]),
            None => Err(no_column(position)),
        }
    }

    /// A text at a position, where it lies.
    pub fn text_at(&self, position: usize) -> Result<&str> {
        match self.values.get(position) {
            Some(Value::Text(text)) => Ok(text),
            Some(other) => Err(misfit(other, &self.columns[position], "a text")),
            None => Err(no_column(position)),
        }
    }

    /// The bytes at a position, where they lie; `None` for NULL.
    pub fn bytes_at(&self, position: usize) -> Result<Option<&[u8]>> {
        match self.values.get(position) {
            Some(Value::Null) => Ok(None),
            Some(Value::Blob(bytes)) => Ok(Some(bytes)),
            Some(other) => Err(misfit(other, &self.columns[position], "bytes")),
            None => Err(no_column(position)),
        }
    }
}

fn no_column(position: usize) -> Error {
    Error::internal(format!("a query returns no column {position}"))
}

/// A type that a row can be read into.
pub trait FromRow: Sized + Send {
    fn from_row(row: &Row) -> Result<Self>;
}

impl FromRow for Row {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(row.clone())
    }
}
