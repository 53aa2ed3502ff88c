//! PostgreSQL. A session is one connection, on a thread of its own, like those of the embedded database.

mod schema;
mod server;
mod wire;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};
use tollgate_core::{Error, Result};

use self::schema::schema_for_postgres;
pub use self::server::{Server, TrustFor};
use self::wire::{Bound, read_into};
use super::{Ending, Role};
use crate::row::Row;
use crate::sql::Sql;
use crate::value::Value;

/// How long a statement may take; what takes longer is cancelled.
const STATEMENT_MAX: Duration = Duration::from_secs(30);
const LONG_STATEMENT_MAX: Duration = Duration::from_mins(5);
/// Of a command that somebody waits for, beside a server or without one.
const COMMAND_STATEMENT_MAX: Duration = Duration::from_hours(24);
/// How much longer than that an answer may take to come. A server that does not even cancel in time is away.
const GRACE: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a program waits for one that served the database before it to be gone.
const HANDOVER_MAX: Duration = Duration::from_secs(5);
/// The advisory lock of the one that writes: `tollgate` in ASCII.
const WRITER_LOCK: i64 = 0x746f_6c6c_6761_7465;
/// PostgreSQL 14.
const VERSION_MIN: i32 = 140_000;
/// Statements remembered per connection. Ours are few; composed ones are bounded by the shapes of the usage queries.
const STATEMENTS_MAX: usize = 512;
/// Statements on their way at once.
const PIPELINED_MAX: usize = 256;

pub(crate) struct Session {
    client: Client,
    begin: &'static str,
    statement_max: Duration,
    is_lost: bool,
    /// A statement of this transaction failed: the server takes no more of it.
    is_spoilt: bool,
    /// By their texts.
    statements: HashMap<String, Prepared>,
    /// Those that stand in the program as a whole, by where they stand: finding one does not read it.
    fixed: HashMap<(usize, usize), Prepared>,
}

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    columns: Arc<[String]>,
}

impl Session {
    pub(super) async fn open(server: &Server, role: Role) -> Result<Self> {
        let connecting = tokio::time::timeout(CONNECT_MAX, server.connect());
        let client = connecting.await.map_err(|_| away("it did not answer in time"))??;
        let (begin, statement_max) = match role {
            Role::Writer { .. } => ("BEGIN ISOLATION LEVEL READ COMMITTED", STATEMENT_MAX),
            Role::Reader => ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", STATEMENT_MAX),
            Role::LongReader => ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", LONG_STATEMENT_MAX),
            Role::Command => ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", COMMAND_STATEMENT_MAX),
        };
        let mut session = Self {
            client,
            begin,
            statement_max,
            is_lost: false,
            is_spoilt: false,
            statements: HashMap::new(),
            fixed: HashMap::new(),
        };
        session.set_up(server, role).await?;
        Ok(session)
    }

    async fn set_up(&mut self, server: &Server, role: Role) -> Result<()> {
        let (statement, handover) = (self.statement_max.as_millis(), HANDOVER_MAX.as_millis());
        // A connection whose other end is gone must not keep the lock for hours, and a commit that is answered is on disk,
        // whatever the server is set to for others. To compile a query takes longer than it saves, of a million rows too.
        self.batch(&format!(
            "SET statement_timeout = {statement}; SET lock_timeout = {handover};
             SET idle_in_transaction_session_timeout = {statement}; SET client_min_messages = warning; SET jit = off;
             SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
             SELECT set_config('synchronous_commit', 'on', FALSE)
                WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        ))
        .await?;
        if matches!(role, Role::Writer { .. } | Role::Reader) {
            // A row or a page is asked for: it is found by indexes however much there is, where the planner would now and then
            // read all of a table for the twenty rows that are wanted of it. Planned once: to plan takes longer than to do.
            self.batch(
                "SET enable_mergejoin = off; SET enable_hashjoin = off; SET plan_cache_mode = force_generic_plan",
            )
            .await?;
        }
        let asking = self.client.query_one(
            "SELECT CAST(current_setting('server_version_num') AS INTEGER), current_setting('server_encoding'),
                current_setting('fsync')",
            &[],
        );
        let row = asking.await.map_err(|error| from_driver(&error).0)?;
        let (version, encoding, fsync): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
        if version < VERSION_MIN {
            return Err(Error::bad_request(format!(
                "{server} runs PostgreSQL {}; 14 or newer is needed.",
                version / 10_000
            )));
        }
        if encoding != "UTF8" {
            return Err(Error::bad_request(format!(
                "The database {server} has the encoding {encoding}. Make one with ENCODING 'UTF8'."
            )));
        }
        if !matches!(role, Role::Writer { .. }) {
            return Ok(());
        }
        if fsync != "on" {
            tracing::warn!(%server, "PostgreSQL runs with fsync = off: what it confirms may be lost with the power");
        }
        // Held as long as the connection: whoever lost it writes no more before it has the lock again.
        match self.batch(&format!("SELECT pg_advisory_lock({WRITER_LOCK})")).await {
            Err(error) if error.code == Some("database_busy") => Err(in_use(server, &self.holder().await)),
            locked => locked,
        }
    }

    /// Who has the lock, as far as the server tells.
    async fn holder(&self) -> String {
        let asking = self.client.query_one(
            "SELECT 'by ' || COALESCE(NULLIF(a.application_name, ''), 'somebody') || ' at '
                || COALESCE(host(a.client_addr), 'this machine') || ', since ' || a.backend_start::text
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'advisory' AND l.granted
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1",
            &[],
        );
        let row = in_time(self.statement_max, asking).await;
        row.ok().and_then(std::result::Result::ok).and_then(|row| row.try_get(0).ok()).unwrap_or_default()
    }

    pub(super) async fn history(&mut self) -> Result<String> {
        let asking = self.client.query_one(
            "SELECT current_database() || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)",
            &[],
        );
        match in_time(self.statement_max, asking).await {
            Ok(Ok(row)) => Ok(row.get(0)),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(late) => Err(self.gone(late)),
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost || self.client.is_closed()
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        self.is_spoilt = false;
        self.batch(self.begin).await
    }

    pub(super) async fn commit(&mut self) -> Ending {
        if self.is_spoilt {
            // The server would answer a COMMIT with a rollback, and call it a success.
            let fault = Error::internal("a unit of work went on after one of its statements had failed");
            return Ending::Failed(fault);
        }
        match self.batch("COMMIT").await {
            Ok(()) => Ending::Committed,
            Err(error) if self.is_lost() => Ending::Unknown(error),
            Err(error) => Ending::Failed(error),
        }
    }

    pub(super) async fn rollback(&mut self) -> bool {
        !self.is_lost() && self.batch("ROLLBACK").await.is_ok()
    }

    /// A migration may take its time.
    pub(super) async fn migrate(&mut self, version: i64, sql: &'static str) -> Result<()> {
        self.client
            .batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
            .await
            .map_err(|error| self.failed(&error))?;
        let schema = schema_for_postgres(version, sql);
        self.client.batch_execute(&schema).await.map_err(|error| self.failed(&error))
    }

    pub(super) async fn query(
        &mut self,
        sql: &Sql,
        params: &[Value],
        each: &mut (dyn FnMut(&Row) -> Result<()> + Send),
    ) -> Result<()> {
        let prepared = self.prepared(sql).await?;
        let columns = Arc::clone(&prepared.columns);
        let mut current = Row { values: vec![Value::Null; columns.len()], columns };
        let rows = self.client.query_raw(&prepared.statement, params.iter().map(Bound));
        let reading = async {
            let mut rows = pin!(rows.await?);
            while let Some(row) = rows.try_next().await? {
                for (at, value) in current.values.iter_mut().enumerate() {
                    read_into(value, &row, at)?;
                }
                if let Err(error) = each(&current) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        };
        match in_time(self.statement_max, reading).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(late) => Err(self.gone(late)),
        }
    }

    /// All are sent before the first is answered.
    pub(crate) async fn execute_each<const COUNT: usize>(
        &mut self,
        sql: &Sql,
        sets: &[[Value; COUNT]],
    ) -> Result<Vec<usize>> {
        let mut touched = Vec::with_capacity(sets.len());
        if sets.is_empty() {
            return Ok(touched);
        }
        let prepared = self.prepared(sql).await?;
        for some in sets.chunks(PIPELINED_MAX) {
            let sending =
                some.iter().map(|set| self.client.execute_raw(&prepared.statement, set.iter().map(Bound)));
            match in_time(self.statement_max, join_all(sending)).await {
                Ok(answers) => {
                    for answer in answers {
                        let rows = answer.map_err(|error| self.failed(&error))?;
                        touched.push(usize::try_from(rows).unwrap_or(usize::MAX));
                    }
                }
                Err(late) => return Err(self.gone(late)),
            }
        }
        Ok(touched)
    }

    pub(super) async fn execute(&mut self, sql: &Sql, params: &[Value]) -> Result<usize> {
        let prepared = self.prepared(sql).await?;
        let sending = self.client.execute_raw(&prepared.statement, params.iter().map(Bound));
        match in_time(self.statement_max, sending).await {
            Ok(Ok(rows)) => Ok(usize::try_from(rows).unwrap_or(usize::MAX)),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(late) => Err(self.gone(late)),
        }
    }

    /// For as long as it takes.
    pub(super) async fn fill(
        &mut self,
        table: &str,
        columns: &str,
        mut rows: mpsc::Receiver<Vec<Value>>,
    ) -> Result<u64> {
        let client = &self.client;
        let filling = async {
            client.batch_execute("SET LOCAL statement_timeout = 0").await?;
            let shape = client.prepare(&format!("SELECT {columns} FROM {table}")).await?;
            let types: Vec<Type> = shape.columns().iter().map(|column| column.type_().clone()).collect();
            let into = client.copy_in(&format!("COPY {table} ({columns}) FROM STDIN BINARY")).await?;
            let mut writer = pin!(BinaryCopyInWriter::new(into, &types));
            while let Some(row) = rows.recv().await {
                let bound: Vec<Bound<'_>> = row.iter().map(Bound).collect();
                writer.as_mut().write_raw(bound).await?;
            }
            writer.finish().await
        };
        let filled = filling.await;
        filled.map_err(|error| self.failed(&error))
    }

    async fn prepared(&mut self, sql: &Sql) -> Result<Prepared> {
        let place = sql.place();
        let known = match place {
            Some(place) => self.fixed.get(&place),
            None => self.statements.get(sql.text()),
        };
        if let Some(prepared) = known {
            return Ok(prepared.clone());
        }
        let statement = match in_time(self.statement_max, prepare(&self.client, sql.text())).await {
            Ok(Ok(statement)) => statement,
            Ok(Err(error)) => return Err(self.failed(&error)),
            Err(late) => return Err(self.gone(late)),
        };
        let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let prepared = Prepared { statement, columns };
        if let Some(place) = place {
            self.fixed.insert(place, prepared.clone());
        } else {
            if self.statements.len() >= STATEMENTS_MAX {
                self.statements.clear();
            }
            self.statements.insert(sql.text().to_owned(), prepared.clone());
        }
        Ok(prepared)
    }

    async fn batch(&mut self, sql: &str) -> Result<()> {
        match in_time(self.statement_max, self.client.batch_execute(sql)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(late) => Err(self.gone(late)),
        }
    }

    fn failed(&mut self, error: &tokio_postgres::Error) -> Error {
        let (error, is_lost) = from_driver(error);
        self.is_spoilt = true;
        self.is_lost |= is_lost;
        error
    }

    fn gone(&mut self, error: Error) -> Error {
        self.is_spoilt = true;
        self.is_lost = true;
        error
    }
}

/// Prepares a statement whose numbers are all of 64 bits: beside a literal the server takes a parameter for one of 32.
async fn prepare(client: &Client, text: &str) -> std::result::Result<Statement, tokio_postgres::Error> {
    let statement = client.prepare(text).await?;
    let is_narrow = |of: &Type| [Type::INT2, Type::INT4, Type::NUMERIC].contains(of);
    if !statement.params().iter().any(is_narrow) {
        return Ok(statement);
    }
    let widened = statement.params().iter().map(|of| if is_narrow(of) { Type::INT8 } else { of.clone() });
    client.prepare_typed(text, &widened.collect::<Vec<_>>()).await
}

async fn in_time<T>(limit: Duration, doing: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit + GRACE, doing).await.map_err(|_| away("it does not answer"))
}

fn away(why: impl Into<String>) -> Error {
    let message = "The database cannot be reached. Please try again.";
    Error::unavailable("database_unavailable", message).source(why.into())
}

fn in_use(server: &Server, holder: &str) -> Error {
    let message = "The database is in use by another process. One process at a time may write to it; stop that one first.";
    Error::unavailable("database_in_use", message).source(format!("{server} {holder}"))
}

/// The one conversion of the driver's errors; and whether the connection is lost.
fn from_driver(error: &tokio_postgres::Error) -> (Error, bool) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    let Some(answer) = error.as_db_error() else {
        let is_broken = error.is_closed()
            || std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        return if is_broken { (away(text), true) } else { (Error::internal(text), false) };
    };
    let is_fatal = matches!(answer.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    let code = answer.code();
    let busy = "The database is busy. Please try again.";
    let mapped = if *code == SqlState::UNIQUE_VIOLATION {
        taken(answer.detail().unwrap_or_default())
    } else if [
        SqlState::QUERY_CANCELED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ]
    .contains(code)
    {
        Error::unavailable("database_busy", busy).source(text)
    } else if code.code().starts_with("53") && *code != SqlState::TOO_MANY_CONNECTIONS
        || *code == SqlState::IO_ERROR
    {
        let message = "The database has no room left. Nothing was done.";
        Error::unavailable("storage_unavailable", message).source(text)
    } else if is_fatal || *code == SqlState::READ_ONLY_SQL_TRANSACTION || code.code().starts_with("57P") {
        // After a failover the connection may be one to a server that only reads now.
        return (away(text), true);
    } else if *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE || *code == SqlState::UNTRANSLATABLE_CHARACTER {
        Error::bad_request("A text has the character U+0000, which cannot be stored.").source(text)
    } else {
        Error::internal(text)
    };
    (mapped, is_fatal)
}

/// A unique violation: `Key (resource_id, name)=(proj_1, x) already exists.`
fn taken(detail: &str) -> Error {
    let columns = detail.strip_prefix("Key (").and_then(|rest| rest.split(')').next()).unwrap_or("id");
    super::taken(columns.rsplit(", ").next().unwrap_or("id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_named_by_its_last_column() {
        let named = |detail| taken(detail).param;
        assert_eq!(named("Key (email)=(a@b.c) already exists.").as_deref(), Some("email"));
        assert_eq!(named("Key (resource_id, name)=(x, y) already exists.").as_deref(), Some("name"));
        assert_eq!(named("").as_deref(), Some("id"));
    }
}
