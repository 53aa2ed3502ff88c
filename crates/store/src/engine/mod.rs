//! The two databases a session can be of. What they do differently stands here, and nowhere else.

mod postgres;
mod sqlite;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::mpsc;
use tollgate_core::error::Kind;
use tollgate_core::{Error, Result};

pub use self::postgres::{Server, TrustFor};
pub(crate) use self::sqlite::{check_version, from_driver};
use crate::row::Row;
use crate::sql::Sql;
use crate::value::Value;

/// Where a database is.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    Sqlite(PathBuf),
    Postgres(Arc<Server>),
}

impl Engine {
    /// Whether it is not in this process: it can be away, and be somebody else's when it is back.
    pub(crate) const fn is_on_server(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(server) => server.fmt(f),
        }
    }
}

/// What a connection is for, which decides on what it may do and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that writes. `create`: a file may be made.
    Writer {
        create: bool,
    },
    Reader,
    /// Of many rows.
    LongReader,
    /// Of a command, which takes as long as it takes.
    Command,
}

/// How a transaction ends that was to commit.
#[derive(Debug)]
pub(crate) enum Ending {
    Committed,
    /// It was not done.
    Failed(Error),
    /// The connection ended before the answer came: it was done, or not.
    Unknown(Error),
}

/// An open connection and what is kept with it.
pub(crate) enum Session {
    Sqlite(Box<sqlite::Session>),
    Postgres(Box<postgres::Session>),
}

impl Session {
    pub(crate) async fn open(engine: &Engine, role: Role) -> Result<Self> {
        match engine {
            Engine::Sqlite(path) => Ok(Self::Sqlite(Box::new(sqlite::Session::open(path, role)?))),
            Engine::Postgres(server) => {
                Ok(Self::Postgres(Box::new(postgres::Session::open(server, role).await?)))
            }
        }
    }

    pub(crate) async fn begin(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(session) => session.begin(),
            Self::Postgres(session) => session.begin().await,
        }
    }

    pub(crate) async fn commit(&mut self) -> Ending {
        match self {
            Self::Sqlite(session) => session.commit(),
            Self::Postgres(session) => session.commit().await,
        }
    }

    /// Says whether the connection can be used again.
    pub(crate) async fn rollback(&mut self) -> bool {
        match self {
            Self::Sqlite(session) => session.rollback(),
            Self::Postgres(session) => session.rollback().await,
        }
    }

    /// Whether the connection is of no use any more.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(session) => session.is_lost(),
        }
    }

    /// Which history the server's database goes through: another one after a standby was promoted or a backup restored. `None`
    /// for the embedded database, which is one file.
    pub(crate) async fn history(&mut self) -> Result<Option<String>> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(session) => session.history().await.map(Some),
        }
    }

    pub(crate) async fn query(
        &mut self,
        sql: &Sql,
        params: &[Value],
        each: &mut (dyn FnMut(&Row) -> Result<()> + Send),
    ) -> Result<()> {
        match self {
            Self::Sqlite(session) => session.query(sql, params, each),
            Self::Postgres(session) => session.query(sql, params, each).await,
        }
    }

    pub(crate) async fn execute(&mut self, sql: &Sql, params: &[Value]) -> Result<usize> {
        match self {
            Self::Sqlite(session) => session.execute(sql, params),
            Self::Postgres(session) => session.execute(sql, params).await,
        }
    }

    /// Runs the statements of a migration.
    pub(crate) async fn migrate(&mut self, version: i64, sql: &'static str) -> Result<()> {
        match self {
            Self::Sqlite(session) => session.migrate(sql),
            Self::Postgres(session) => session.migrate(version, sql).await,
        }
    }

    pub(crate) async fn has_table(&mut self, name: &str) -> Result<bool> {
        let sql = match self {
            Self::Sqlite(_) => "SELECT 1 AS found FROM sqlite_schema WHERE type = 'table' AND name = $1",
            Self::Postgres(_) => {
                "SELECT 1 AS found FROM information_schema.tables
                 WHERE table_schema = current_schema() AND table_name = $1"
            }
        };
        let mut is_there = false;
        let mut note = |_: &Row| {
            is_there = true;
            Ok(())
        };
        self.query(&sql.into(), &[Value::Text(name.to_owned())], &mut note).await?;
        Ok(is_there)
    }

    /// Whether what is stored is whole in itself: what is wrong with it, in words. A server sees to that by itself.
    pub(crate) async fn check_storage(&mut self) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        if let Self::Postgres(_) = self {
            return Ok(faults);
        }
        let mut note = |row: &Row| {
            let verdict: String = row.at(0)?;
            if verdict != "ok" {
                faults.push(format!("the database file: {verdict}"));
            }
            Ok(())
        };
        self.query(&"PRAGMA integrity_check".into(), &[], &mut note).await?;
        let mut note = |row: &Row| {
            faults.push(format!("a row of {} refers to nothing", row.at::<String>(0)?));
            Ok(())
        };
        self.query(&"PRAGMA foreign_key_check".into(), &[], &mut note).await?;
        Ok(faults)
    }

    /// Fills a table of a server's database with rows as they come, and says how many there were.
    pub(crate) async fn fill(
        &mut self,
        table: &str,
        columns: &str,
        rows: mpsc::Receiver<Vec<Value>>,
    ) -> Result<u64> {
        match self {
            Self::Sqlite(_) => Err(Error::bad_request("Copies are made to a database on a server only.")),
            Self::Postgres(session) => session.fill(table, columns, rows).await,
        }
    }

    /// The connection of the embedded database, for what only it can do.
    pub(crate) fn embedded(&self) -> Result<&rusqlite::Connection> {
        match self {
            Self::Sqlite(session) => Ok(&session.connection),
            Self::Postgres(_) => Err(Error::bad_request(
                "This can be done with the embedded database only. PostgreSQL has tools of its own, such as pg_dump.",
            )),
        }
    }
}

/// What carries the futures of a thread's sessions.
pub(crate) enum Driver {
    /// The embedded database answers at once: its futures never wait.
    AtOnce,
    Runtime(tokio::runtime::Runtime),
}

impl Driver {
    pub(crate) fn of(engine: &Engine) -> Result<Self> {
        let Engine::Postgres(_) = engine else { return Ok(Self::AtOnce) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map(Self::Runtime)
            .map_err(|error| Error::internal("a database thread has no runtime").source(error))
    }

    /// Drives a future to its end. A unit of work awaits nothing but its own statements: on the embedded database one poll
    /// is enough, and what else it might await there would stop every other writer, and is a fault in the program.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        match self {
            Self::Runtime(runtime) => runtime.block_on(future),
            Self::AtOnce => match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result,
                Poll::Pending => panic!("a transaction awaited something other than its own statements"),
            },
        }
    }
}

/// A unique violation, by the column that tells two rows apart.
fn taken(column: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("There is one with this '{column}' already."))
        .code("already_exists")
        .param(column)
}
