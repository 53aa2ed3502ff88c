//! A transaction: the statements of one unit of work.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, ffi};
use tollgate_core::error::Kind;
use tollgate_core::{Error, Result};

use crate::row::{FromRow, Row};
use crate::sql::{Sql, for_sqlite};
use crate::value::Value;

/// An open transaction. Its methods are async for PostgreSQL's sake; on SQLite they never wait.
pub struct Tx {
    pub(crate) session: Session,
    /// The number of the last change this transaction logged.
    pub(crate) changed_to: Option<i64>,
}

/// A connection and what is kept with it.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    /// Our SQL text to SQLite's.
    texts: HashMap<String, Arc<str>>,
    /// Those that stand in the program as a whole, by where they stand: finding one does not read it.
    fixed: HashMap<(usize, usize), Arc<str>>,
}

/// Texts remembered per connection. Ours are few; composed ones are bounded by the shapes of the usage queries.
const TEXTS_MAX: usize = 512;

impl Session {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, texts: HashMap::new(), fixed: HashMap::new() }
    }

    fn text(&mut self, sql: &Sql) -> Arc<str> {
        if let Some(place) = sql.place() {
            let text = self.fixed.entry(place).or_insert_with(|| for_sqlite(sql.text()).into());
            return Arc::clone(text);
        }
        if let Some(text) = self.texts.get(sql.text()) {
            return Arc::clone(text);
        }
        if self.texts.len() >= TEXTS_MAX {
            self.texts.clear();
        }
        let text: Arc<str> = for_sqlite(sql.text()).into();
        self.texts.insert(sql.text().to_owned(), Arc::clone(&text));
        text
    }

    pub(crate) fn control(&self, statement: &'static str) -> Result<()> {
        self.connection.execute_batch(statement).map_err(from_driver)
    }
}

impl Tx {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, changed_to: None }
    }

    /// The number of the last change logged here, which the replica must reach before the change is announced.
    pub fn changed_to(&self) -> Option<i64> {
        self.changed_to
    }

    /// All rows of a query.
    #[expect(clippy::unused_async, reason = "PostgreSQL's driver awaits where SQLite answers at once")]
    pub async fn all<T: FromRow>(&mut self, sql: impl Into<Sql>, params: &[Value]) -> Result<Vec<T>> {
        let text = self.session.text(&sql.into());
        let mut rows = Vec::new();
        query(&self.session.connection, &text, params, |row| {
            rows.push(T::from_row(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Calls `each` with every row of a query, without holding them all.
    #[expect(clippy::unused_async, reason = "PostgreSQL's driver awaits where SQLite answers at once")]
    pub async fn for_each<T: FromRow>(
        &mut self,
        sql: impl Into<Sql>,
        params: &[Value],
        mut each: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let text = self.session.text(&sql.into());
        query(&self.session.connection, &text, params, |row| each(T::from_row(row)?))
    }

    /// The first row of a query, if there is one.
    pub async fn optional<T: FromRow>(&mut self, sql: impl Into<Sql>, params: &[Value]) -> Result<Option<T>> {
        Ok(self.all(sql, params).await?.into_iter().next())
    }

    /// The row of a query that always has one.
    pub async fn one<T: FromRow>(&mut self, sql: impl Into<Sql>, params: &[Value]) -> Result<T> {
        self.optional(sql, params)
            .await?
            .ok_or_else(|| Error::internal("a query that always has a row had none"))
    }

    /// Runs a statement once for each set of values, and returns how many rows each touched.
    #[expect(clippy::unused_async, reason = "PostgreSQL's driver awaits where SQLite answers at once")]
    pub async fn execute_each<const COUNT: usize>(
        &mut self,
        sql: &'static str,
        sets: impl IntoIterator<Item = [Value; COUNT]>,
    ) -> Result<Vec<usize>> {
        let text = self.session.text(&sql.into());
        let mut statement = self.session.connection.prepare_cached(&text).map_err(from_driver)?;
        let mut touched = Vec::new();
        for params in sets {
            bind(&mut statement, &params)?;
            touched.push(statement.raw_execute().map_err(from_driver)?);
        }
        Ok(touched)
    }

    /// Runs a statement and returns how many rows it touched.
    #[expect(clippy::unused_async, reason = "PostgreSQL's driver awaits where SQLite answers at once")]
    pub async fn execute(&mut self, sql: impl Into<Sql>, params: &[Value]) -> Result<usize> {
        let text = self.session.text(&sql.into());
        let mut statement = self.session.connection.prepare_cached(&text).map_err(from_driver)?;
        bind(&mut statement, params)?;
        statement.raw_execute().map_err(from_driver)
    }
}

fn query(
    connection: &Connection,
    text: &str,
    params: &[Value],
    mut each: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(text).map_err(from_driver)?;
    bind(&mut statement, params)?;
    let columns: Arc<[String]> = statement.column_names().map(str::to_owned).collect();
    // One row for all, whose memory is used again: a node reads millions when it starts.
    let mut current = Row { values: vec![Value::Null; columns.len()], columns };
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(from_driver)? {
        for (at, value) in current.values.iter_mut().enumerate() {
            read_into(value, row.get_ref(at).map_err(from_driver)?)?;
        }
        each(&current)?;
    }
    Ok(())
}

fn bind(statement: &mut rusqlite::CachedStatement<'_>, params: &[Value]) -> Result<()> {
    for (position, value) in params.iter().enumerate() {
        match value {
            Value::Null => statement.raw_bind_parameter(position + 1, rusqlite::types::Null),
            Value::Int(number) => statement.raw_bind_parameter(position + 1, number),
            Value::Bool(flag) => statement.raw_bind_parameter(position + 1, flag),
            Value::Text(text) => statement.raw_bind_parameter(position + 1, text.as_str()),
            Value::Blob(bytes) => statement.raw_bind_parameter(position + 1, bytes.as_slice()),
        }
        .map_err(from_driver)?;
    }
    Ok(())
}

fn read_into(slot: &mut Value, value: ValueRef<'_>) -> Result<()> {
    match (slot, value) {
        (Value::Text(old), ValueRef::Text(text)) => {
            old.clear();
            old.push_str(utf8(text)?);
        }
        (Value::Blob(old), ValueRef::Blob(bytes)) => {
            old.clear();
            old.extend_from_slice(bytes);
        }
        (slot, ValueRef::Null) => *slot = Value::Null,
        (slot, ValueRef::Integer(number)) => *slot = Value::Int(number),
        (slot, ValueRef::Text(text)) => *slot = Value::Text(utf8(text)?.to_owned()),
        (slot, ValueRef::Blob(bytes)) => *slot = Value::Blob(bytes.to_vec()),
        (_, ValueRef::Real(_)) => return Err(Error::internal("a query returned a floating-point number")),
    }
    Ok(())
}

fn utf8(text: &[u8]) -> Result<&str> {
    std::str::from_utf8(text).map_err(|error| Error::internal("a stored text is not UTF-8").source(error))
}

/// The one conversion of the driver's errors.
#[expect(clippy::needless_pass_by_value, reason = "used as map_err's function")]
pub(crate) fn from_driver(error: rusqlite::Error) -> Error {
    let text = error.to_string();
    let Some(cause) = error.sqlite_error() else { return Error::internal(text) };
    match (cause.code, cause.extended_code) {
        (_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => taken(&text),
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => {
            Error::unavailable("database_busy", "The database is busy. Please try again.").source(text)
        }
        (ErrorCode::SystemIoFailure, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => {
            // The kernel reports a failed write-back once and then forgets it: whatever is retried would seem to
            // succeed. Only reading the disk again at a new start tells what is there.
            tracing::error!(error = text, "the disk failed to keep what was written; stopping at once");
            std::process::abort()
        }
        (ErrorCode::DiskFull | ErrorCode::SystemIoFailure, _) => {
            Error::unavailable("storage_unavailable", "The server cannot use its disk. Nothing was done.")
                .source(text)
        }
        _ => Error::internal(text),
    }
}

/// A unique violation: `UNIQUE constraint failed: app_user.email`.
fn taken(text: &str) -> Error {
    let column = text.rsplit_once('.').map_or("id", |(_, column)| column).to_owned();
    Error::new(Kind::InvalidRequest, format!("There is one with this '{column}' already."))
        .code("already_exists")
        .param(column)
}
