//! A transaction: the statements of one unit of work.

use std::future::Future;
use std::pin::Pin;

use tollgate_core::{Error, Result};

use crate::engine::Session;
use crate::row::{FromRow, Row};
use crate::sql::Sql;
use crate::value::Value;

/// An open transaction. On the embedded database its methods never wait.
pub struct Tx {
    pub(crate) session: Session,
    /// The number of the last change this transaction logged.
    pub(crate) changed_to: Option<i64>,
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
    pub async fn all<T: FromRow>(&mut self, sql: impl Into<Sql> + Send, params: &[Value]) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        let mut each = |row: &Row| {
            rows.push(T::from_row(row)?);
            Ok(())
        };
        self.session.query(&sql.into(), params, &mut each).await?;
        Ok(rows)
    }

    /// Calls `each` with every row of a query, without holding them all.
    pub async fn for_each<T: FromRow>(
        &mut self,
        sql: impl Into<Sql> + Send,
        params: &[Value],
        mut each: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        self.session.query(&sql.into(), params, &mut |row: &Row| each(T::from_row(row)?)).await
    }

    /// The first row of a query, if there is one.
    pub async fn optional<T: FromRow>(
        &mut self,
        sql: impl Into<Sql> + Send,
        params: &[Value],
    ) -> Result<Option<T>> {
        Ok(self.all(sql, params).await?.into_iter().next())
    }

    /// The row of a query that always has one.
    pub async fn one<T: FromRow>(&mut self, sql: impl Into<Sql> + Send, params: &[Value]) -> Result<T> {
        self.optional(sql, params)
            .await?
            .ok_or_else(|| Error::internal("a query that always has a row had none"))
    }

    /// Runs a statement once for each set of values, and returns how many rows each touched.
    pub fn execute_each<const COUNT: usize>(
        &mut self,
        sql: &'static str,
        sets: impl IntoIterator<Item = [Value; COUNT]>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<usize>>> + Send + '_>> {
        // Before anything waits, so that no iterator has to be carried over it.
        match &mut self.session {
            Session::Sqlite(session) => {
                Box::pin(std::future::ready(session.execute_each(&sql.into(), sets.into_iter())))
            }
            Session::Postgres(session) => {
                let sets: Vec<_> = sets.into_iter().collect();
                Box::pin(async move { session.execute_each(&sql.into(), &sets).await })
            }
        }
    }

    /// What is wrong with what is stored, before anything is known of what it means.
    pub async fn check_storage(&mut self) -> Result<Vec<String>> {
        self.session.check_storage().await
    }

    /// Runs a statement and returns how many rows it touched.
    pub async fn execute(&mut self, sql: impl Into<Sql> + Send, params: &[Value]) -> Result<usize> {
        self.session.execute(&sql.into(), params).await
    }
}
