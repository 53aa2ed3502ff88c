//! The embedded database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use tollgate_core::{Error, Result};

use super::{Ending, Role};
use crate::row::Row;
use crate::sql::{Sql, for_sqlite};
use crate::value::Value;

/// SQLite before this version can corrupt a write-ahead log that is reset while it is read.
const VERSION_MIN: i32 = 3_051_003;
/// Texts remembered per connection. Ours are few; composed ones are bounded by the shapes of the usage queries.
const TEXTS_MAX: usize = 512;

pub(crate) fn check_version() -> Result<()> {
    if rusqlite::version_number() < VERSION_MIN {
        return Err(Error::internal(format!("SQLite {} can corrupt its log", rusqlite::version())));
    }
    Ok(())
}

pub(crate) struct Session {
    pub(crate) connection: Connection,
    begin: &'static str,
    /// Our SQL text to SQLite's.
    texts: HashMap<String, Arc<str>>,
    /// Those that stand in the program as a whole, by where they stand: finding one does not read it.
    fixed: HashMap<(usize, usize), Arc<str>>,
}

impl Session {
    pub(super) fn open(path: &Path, role: Role) -> Result<Self> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, role == Role::Writer { create: true });
        let connection = Connection::open_with_flags(path, flags).map_err(from_driver)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(from_driver)?;
        connection.set_prepared_statement_cache_capacity(256);
        let is_writer = matches!(role, Role::Writer { .. });
        if is_writer {
            connection
                .execute_batch(
                    // NORMAL syncs what a checkpoint needs; the syncing thread brings each commit to the disk.
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 67108864;",
                )
                .map_err(from_driver)?;
        }
        let query_only = if is_writer { "" } else { "PRAGMA query_only = ON;" };
        connection
            .execute_batch(&format!(
                "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
                 PRAGMA mmap_size = 0; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; {query_only}"
            ))
            .map_err(from_driver)?;
        let begin = if is_writer { "BEGIN IMMEDIATE" } else { "BEGIN" };
        Ok(Self { connection, begin, texts: HashMap::new(), fixed: HashMap::new() })
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

    fn control(&self, statement: &'static str) -> Result<()> {
        self.connection.execute_batch(statement).map_err(from_driver)
    }

    pub(super) fn begin(&self) -> Result<()> {
        self.control(self.begin)
    }

    pub(super) fn commit(&self) -> Ending {
        match self.control("COMMIT") {
            Ok(()) => Ending::Committed,
            Err(error) => Ending::Failed(error),
        }
    }

    pub(super) fn rollback(&self) -> bool {
        self.connection.is_autocommit() || self.control("ROLLBACK").is_ok()
    }

    pub(super) fn migrate(&self, sql: &'static str) -> Result<()> {
        self.control(sql)
    }

    pub(super) fn query(
        &mut self,
        sql: &Sql,
        params: &[Value],
        each: &mut (dyn FnMut(&Row) -> Result<()> + Send),
    ) -> Result<()> {
        let text = self.text(sql);
        let mut statement = self.connection.prepare_cached(&text).map_err(from_driver)?;
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

    pub(crate) fn execute_each<const COUNT: usize>(
        &mut self,
        sql: &Sql,
        sets: impl Iterator<Item = [Value; COUNT]>,
    ) -> Result<Vec<usize>> {
        let text = self.text(sql);
        let mut statement = self.connection.prepare_cached(&text).map_err(from_driver)?;
        let mut touched = Vec::new();
        for params in sets {
            bind(&mut statement, &params)?;
            touched.push(statement.raw_execute().map_err(from_driver)?);
        }
        Ok(touched)
    }

    pub(super) fn execute(&mut self, sql: &Sql, params: &[Value]) -> Result<usize> {
        let text = self.text(sql);
        let mut statement = self.connection.prepare_cached(&text).map_err(from_driver)?;
        bind(&mut statement, params)?;
        statement.raw_execute().map_err(from_driver)
    }
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
    super::taken(text.rsplit_once('.').map_or("id", |(_, column)| column))
}
