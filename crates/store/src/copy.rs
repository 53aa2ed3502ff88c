//! Moving an installation from the embedded database to a server.

use tokio::sync::mpsc;
use tollgate_core::{Error, Result};

use crate::db::{Db, Reading};
use crate::params;
use crate::row::Row;
use crate::sql::Sql;
use crate::tx::Tx;

/// Rows on their way at a time.
const UNDERWAY_MAX: usize = 1_000;
/// What a copy writes into the target, and whoever serves it takes out: as long as it is there, nothing but the copy is lost if
/// another takes its place.
const MARK: &str = "copied_from";

/// A table, and how many rows were copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Copied {
    pub table: String,
    pub rows: u64,
}

struct Table {
    name: String,
    columns: String,
}

impl Table {
    fn rows(&self) -> Sql {
        Sql::of_names(&["SELECT ", &self.columns, " FROM ", &self.name])
    }
}

/// Copies every row of an embedded database to a server's, in one transaction there. The target has the same schema, and
/// nothing in it, or a copy that nobody has served yet. Nobody may write to the source meanwhile.
pub async fn copy(from: &Db, to: &Db) -> Result<Vec<Copied>> {
    let (source, place) = (from.clone(), from.place());
    let tables = from.read(|tx| Box::pin(tables(tx))).await?;
    to.write(move |tx| {
        Box::pin(async move {
            make_room(tx, &tables).await?;
            let mut copied = Vec::with_capacity(tables.len());
            for table in tables {
                let (name, columns) = (table.name.clone(), table.columns.clone());
                let (sender, receiver) = mpsc::channel(UNDERWAY_MAX);
                let reading = source.read_for(Reading::Long, move |tx| {
                    Box::pin(async move {
                        tx.for_each(table.rows(), &[], |row: Row| {
                            // Whoever does not take it any more says why.
                            let _ = sender.blocking_send(row.values);
                            Ok(())
                        })
                        .await
                    })
                });
                let writing = tx.session.fill(&name, &columns, receiver);
                let (read, rows) = tokio::join!(reading, writing);
                let rows = rows?;
                read?;
                copied.push(Copied { table: name, rows });
            }
            // Otherwise the first hours would be planned as for empty tables.
            tx.execute("ANALYZE", &[]).await?;
            tx.execute("INSERT INTO installation (name, value) VALUES ($1, $2)", &params![MARK, place])
                .await?;
            Ok(copied)
        })
    })
    .await
}

/// Says that a database is served now: no copy takes its place any more.
pub async fn keep(db: &Db) -> Result<()> {
    let sql = "SELECT 1 AS found FROM installation WHERE name = $1";
    if db
        .read(move |tx| Box::pin(async move { tx.optional::<Row>(sql, &params![MARK]).await }))
        .await?
        .is_none()
    {
        return Ok(());
    }
    let sql = "DELETE FROM installation WHERE name = $1";
    db.write(move |tx| Box::pin(async move { tx.execute(sql, &params![MARK]).await })).await?;
    Ok(())
}

/// The tables of an embedded database, each after those that it refers to.
async fn tables(tx: &mut Tx) -> Result<Vec<Table>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'schema_migration'
        AND name NOT LIKE 'sqlite%' ORDER BY name";
    let rows: Vec<Row> = tx.all(sql, &[]).await?;
    let mut waiting = Vec::new();
    for row in rows {
        let name: String = row.at(0)?;
        let columns: Vec<Row> =
            tx.all("SELECT name FROM pragma_table_info($1) ORDER BY cid", &params![name]).await?;
        let columns = columns.iter().map(|row| row.at(0)).collect::<Result<Vec<String>>>()?.join(", ");
        let sql = "SELECT DISTINCT \"table\" AS other FROM pragma_foreign_key_list($1)";
        let others: Vec<Row> = tx.all(sql, &params![name]).await?;
        let others = others.iter().map(|row| row.at(0)).collect::<Result<Vec<String>>>()?;
        waiting.push((Table { name, columns }, others));
    }
    let mut ordered: Vec<Table> = Vec::new();
    while !waiting.is_empty() {
        let is_done = |name: &String| ordered.iter().any(|table| table.name == *name);
        let at = waiting.iter().position(|(_, others)| others.iter().all(is_done));
        let at = at.ok_or_else(|| Error::internal("tables that refer to each other in a circle"))?;
        ordered.push(waiting.remove(at).0);
    }
    Ok(ordered)
}

/// Refuses to overwrite what somebody lives in, and takes an earlier copy away.
async fn make_room(tx: &mut Tx, tables: &[Table]) -> Result<()> {
    let is_inhabited =
        tx.optional::<Row>("SELECT 1 AS found FROM organization LIMIT 1", &[]).await?.is_some();
    let sql = "SELECT 1 AS found FROM installation WHERE name = $1";
    let is_copy = tx.optional::<Row>(sql, &params![MARK]).await?.is_some();
    if is_inhabited && !is_copy {
        return Err(Error::bad_request(
            "There is an installation in that database already, which has been served since. Copy into an empty one.",
        ));
    }
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    tx.execute(Sql::of_names(&["TRUNCATE ", &names.join(", ")]), &[]).await?;
    Ok(())
}
