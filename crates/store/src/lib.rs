//! The database: one body of SQL text, transactions, migrations and the change log.
//!
//! This is the only crate that names a database driver, and it knows no business rules. SQL is written once, with `$n`
//! parameters and only what SQLite and PostgreSQL have in common; [`Tx`] runs it. A transaction is one future that
//! awaits nothing but its own statements.

mod ballast;
mod change;
pub mod copy;
mod data_dir;
mod db;
mod engine;
mod home;
mod lane;
mod migrate;
mod row;
mod sql;
mod sync;
#[cfg(any(test, feature = "testing"))]
mod testing;
mod tx;
mod value;

pub use ballast::Ballast;
pub use change::{Change, Entity};
pub use data_dir::{DataDir, Lock, make_directory};
pub use db::{Db, OUTCOME_UNKNOWN, Options, OwnedWork, Reading, Work};
pub use engine::{Server, TrustFor};
pub use home::Home;
pub use migrate::{MIGRATIONS, Migrated, Migration};
pub use row::{FromRow, Row};
pub use sql::Sql;
pub use sync::Commit;
pub use tx::Tx;
pub use value::{FromValue, ToValue, Value};
