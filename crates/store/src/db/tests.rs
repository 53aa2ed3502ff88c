use std::sync::mpsc;

use super::*;
use crate::{DataDir, FromRow, Home, Migrated, Migration, Row, params};
use tollgate_core::{Clock, Timestamp};

const FIRST: Migration = Migration { version: 1, sql: "CREATE TABLE thing (id BIGINT NOT NULL PRIMARY KEY)" };
const SECOND: Migration = Migration { version: 2, sql: "ALTER TABLE thing ADD COLUMN name TEXT" };
const FIRST_EDITED: Migration = Migration { version: 1, sql: "CREATE TABLE thing (id TEXT)" };

fn clock() -> Clock {
    Clock::manual(Timestamp(1_000_000))
}

async fn opened(place: &Home, migrations: &'static [Migration]) -> (Db, Result<Migrated>) {
    place.create().unwrap();
    let db = place.open(Options { create: true, read_only: false }).unwrap();
    let migrated = db.migrate(place.database_directory(), migrations, &clock()).await;
    (db, migrated)
}

async fn count(db: &Db) -> i64 {
    let row: Row = db.read(|tx| Box::pin(tx.one("SELECT COUNT(*) AS things FROM thing", &[]))).await.unwrap();
    row.get("things").unwrap()
}

async fn insert(db: &Db, id: i64) -> Result<usize> {
    db.write(move |tx| {
        Box::pin(async move { tx.execute("INSERT INTO thing (id) VALUES ($1)", &params![id]).await })
    })
    .await
}

#[tokio::test]
async fn an_upgrade_puts_a_copy_aside_and_an_older_binary_then_refuses() {
    let home = tempfile::tempdir().unwrap();
    let directory = Home::embedded(DataDir::new(home.path()));
    let (db, migrated) = opened(&directory, &[FIRST]).await;
    assert_eq!(migrated.unwrap(), Migrated::Created);
    insert(&db, 1).await.unwrap();
    drop(db);

    let (db, migrated) = opened(&directory, &[FIRST, SECOND]).await;
    let Migrated::Upgraded { copy: Some(copy) } = migrated.unwrap() else { panic!("expected an upgrade") };
    insert(&db, 2).await.unwrap();
    let before = Db::open(&copy, Options::default()).unwrap();
    assert_eq!((count(&before).await, before.schema_version().await.unwrap()), (1, 1));
    drop((db, before));

    let (_, migrated) = opened(&directory, &[FIRST]).await;
    assert!(migrated.unwrap_err().message.contains("schema version 2"));
    let (_, migrated) = opened(&directory, &[FIRST_EDITED, SECOND]).await;
    assert!(migrated.is_err(), "a migration whose text changed is refused");
}

#[tokio::test]
async fn a_failed_or_panicking_transaction_leaves_nothing_and_the_next_one_works() {
    let home = tempfile::tempdir().unwrap();
    let (db, _) = opened(&Home::for_tests(home.path()), &[FIRST]).await;
    let failed: Result<()> = db
        .write(|tx| {
            Box::pin(async move {
                tx.execute("INSERT INTO thing (id) VALUES (7)", &[]).await?;
                Err(Error::bad_request("no"))
            })
        })
        .await;
    assert_eq!(failed.unwrap_err().message, "no");
    let panicked: Result<()> = db
        .write(|tx| {
            Box::pin(async move {
                tx.execute("INSERT INTO thing (id) VALUES (7)", &[]).await?;
                panic!("a fault in the program")
            })
        })
        .await;
    assert_eq!(panicked.unwrap_err().status(), 500);
    assert_eq!(count(&db).await, 0);
    insert(&db, 7).await.unwrap();
    let twice = insert(&db, 7).await.unwrap_err();
    assert_eq!((twice.code, twice.param.as_deref()), (Some("already_exists"), Some("id")));
}

#[tokio::test]
async fn changes_come_into_force_while_others_read_for_long() {
    let home = tempfile::tempdir().unwrap();
    let (db, _) = opened(&Home::for_tests(home.path()), &[FIRST]).await;
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let readings = [(Reading::Usual, 2 * READERS), (Reading::Long, 2 * LONG_READERS)];
    let busy: Vec<_> = readings.iter().flat_map(|(reading, count)| vec![*reading; *count]).collect();
    let mut reading: Vec<_> = Vec::new();
    for kind in busy {
        let (db, held) = (db.clone(), Arc::clone(&held));
        reading.push(tokio::spawn(async move {
            db.read_for(kind, move |_| {
                let _ = held.lock().map(|held| held.recv());
                Box::pin(async { Ok(()) })
            })
            .await
        }));
    }
    tokio::task::yield_now().await;
    insert(&db, 1).await.unwrap();
    let seen: Row = db
        .read_for(Reading::Change, |tx| Box::pin(tx.one("SELECT COUNT(*) AS things FROM thing", &[])))
        .await
        .unwrap();
    assert_eq!(seen.get::<i64>("things").unwrap(), 1);
    assert!(reading.iter().all(|task| !task.is_finished()));
    drop(release);
    for task in reading {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let home = tempfile::tempdir().unwrap();
    let (db, _) = opened(&Home::for_tests(home.path()), &[FIRST]).await;
    let refused = db
        .read(|tx| Box::pin(async move { tx.execute("INSERT INTO thing (id) VALUES (1)", &[]).await }))
        .await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn one_process_at_a_time_holds_the_lock() {
    let home = tempfile::tempdir().unwrap();
    let directory = DataDir::new(home.path());
    let lock = directory.lock().unwrap();
    let refused = directory.lock().unwrap_err();
    assert!(refused.message.contains(&format!("pid {}", std::process::id())), "{}", refused.message);
    // What a child has between its fork and its own program.
    let inherited = lock.0.try_clone().unwrap();
    drop(lock);
    directory.lock().unwrap();
    drop(inherited);
}

#[tokio::test]
async fn values_survive_the_database() {
    let home = tempfile::tempdir().unwrap();
    let schema: &'static [Migration] =
        &[Migration { version: 1, sql: "CREATE TABLE value (i BIGINT, b BOOLEAN, t TEXT, y BLOB, n TEXT)" }];
    let (db, _) = opened(&Home::for_tests(home.path()), schema).await;
    let row: Row = db
        .write(|tx| {
            Box::pin(async move {
                let values = params![i64::MIN, true, "zwölf $1 '", vec![0u8, 255], None::<String>];
                tx.execute("INSERT INTO value (i, b, t, y, n) VALUES ($1, $2, $3, $4, $5)", &values).await?;
                tx.one("SELECT n, y, t, b, i FROM value WHERE t = $1", &params!["zwölf $1 '"]).await
            })
        })
        .await
        .unwrap();
    assert_eq!(row.get::<i64>("i").unwrap(), i64::MIN);
    assert!(row.get::<bool>("b").unwrap());
    assert_eq!(row.get::<Vec<u8>>("y").unwrap(), [0, 255]);
    assert_eq!(row.get::<Option<String>>("n").unwrap(), None);
    assert!(row.get::<String>("n").is_err() && row.get::<i64>("absent").is_err());
    assert!(Row::from_row(&row).is_ok());
}
