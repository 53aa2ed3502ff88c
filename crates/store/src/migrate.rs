//! Numbered migrations, forward only. A database that a newer version wrote is refused.

use std::path::PathBuf;

use tollgate_core::secret::hex;
use tollgate_core::{Clock, Error, Result};

use crate::db::Db;
use crate::row::Row;
use crate::{DataDir, params};

/// One step of the schema. Its text is never changed once released.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub version: i64,
    pub sql: &'static str,
}

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/0001_initial.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/0002_the_cap.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/0003_upstream_settings.sql") },
    Migration { version: 4, sql: include_str!("../../../migrations/0004_cache_write_1h.sql") },
    Migration { version: 5, sql: include_str!("../../../migrations/0005_access_policy.sql") },
    Migration { version: 6, sql: include_str!("../../../migrations/0006_stored_responses.sql") },
    Migration { version: 7, sql: include_str!("../../../migrations/0007_audio_prices.sql") },
    Migration { version: 8, sql: include_str!("../../../migrations/0008_tier_factors.sql") },
    Migration { version: 9, sql: include_str!("../../../migrations/0009_stored_items.sql") },
    Migration { version: 10, sql: include_str!("../../../migrations/0010_roles_and_groups.sql") },
    Migration { version: 11, sql: include_str!("../../../migrations/0011_invites.sql") },
    Migration { version: 12, sql: include_str!("../../../migrations/0012_audit_chain.sql") },
    Migration { version: 13, sql: include_str!("../../../migrations/0013_freeze_and_key_policy.sql") },
    Migration { version: 14, sql: include_str!("../../../migrations/0014_lists.sql") },
    Migration { version: 15, sql: include_str!("../../../migrations/0015_admin_keys_of_machines.sql") },
    Migration { version: 16, sql: include_str!("../../../migrations/0016_usage_totals.sql") },
    Migration { version: 17, sql: include_str!("../../../migrations/0017_spend_alerts.sql") },
    Migration { version: 18, sql: include_str!("../../../migrations/0018_prices_and_labels.sql") },
    Migration { version: 19, sql: include_str!("../../../migrations/0019_event_alerts.sql") },
    Migration { version: 20, sql: include_str!("../../../migrations/0020_retention.sql") },
    Migration { version: 21, sql: include_str!("../../../migrations/0021_rotation.sql") },
    Migration { version: 22, sql: include_str!("../../../migrations/0022_sessions.sql") },
    Migration { version: 23, sql: include_str!("../../../migrations/0023_identities.sql") },
    Migration { version: 24, sql: include_str!("../../../migrations/0024_activity.sql") },
];

const SCHEMA_MIGRATION: &str = "CREATE TABLE IF NOT EXISTS schema_migration (
    version BIGINT NOT NULL PRIMARY KEY, checksum TEXT NOT NULL, applied_at BIGINT NOT NULL)";

/// What bringing a database up to date meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Migrated {
    /// There was no database yet.
    Created,
    Unchanged,
    /// Migrated, after a copy of the embedded database was put aside.
    Upgraded {
        copy: Option<PathBuf>,
    },
}

impl Db {
    /// Applies the migrations this database lacks. If it holds anything a copy of it is put into the directory before.
    pub async fn migrate(
        &self,
        copies: Option<&DataDir>,
        migrations: &'static [Migration],
        clock: &Clock,
    ) -> Result<Migrated> {
        let applied = self.schema_version().await?;
        let newest = migrations.last().map_or(0, |migration| migration.version);
        self.refuse_newer(applied, newest)?;
        self.refuse_edited(migrations).await?;
        if applied == newest {
            return Ok(Migrated::Unchanged);
        }
        let copy =
            copies.filter(|_| applied > 0).map(|directory| directory.migration_copy(applied, clock.now()));
        if let Some(copy) = &copy {
            self.copy_to(copy).await?;
        }
        for migration in migrations.iter().filter(|migration| migration.version > applied) {
            self.apply(*migration, clock).await?;
        }
        Ok(if applied == 0 { Migrated::Created } else { Migrated::Upgraded { copy } })
    }

    /// The version of the schema; 0 for an empty database.
    pub async fn schema_version(&self) -> Result<i64> {
        self.read(|tx| {
            Box::pin(async move {
                if !tx.session.has_table("schema_migration").await? {
                    return Ok(0);
                }
                let row: Row =
                    tx.one("SELECT COALESCE(MAX(version), 0) AS version FROM schema_migration", &[]).await?;
                row.get("version")
            })
        })
        .await
    }

    /// Refuses a database that this binary may only misunderstand.
    pub async fn check_schema(&self, migrations: &'static [Migration]) -> Result<()> {
        let newest = migrations.last().map_or(0, |migration| migration.version);
        let applied = self.schema_version().await?;
        self.refuse_newer(applied, newest)?;
        if applied == 0 {
            return Err(Error::bad_request(format!(
                "There is no installation in {}. `tollgate serve` makes one.",
                self.place()
            )));
        }
        if applied < newest {
            return Err(Error::bad_request(format!(
                "The database {} has schema version {applied}, older than this binary's {newest}. Start `tollgate \
                 serve` once: it migrates, after making a copy.",
                self.place()
            )));
        }
        Ok(())
    }

    fn refuse_newer(&self, applied: i64, newest: i64) -> Result<()> {
        if applied > newest {
            return Err(Error::bad_request(format!(
                "The database {} has schema version {applied}; this binary knows versions up to {newest}. Use the \
                 newer binary that wrote it.",
                self.place()
            )));
        }
        Ok(())
    }

    async fn refuse_edited(&self, migrations: &'static [Migration]) -> Result<()> {
        if self.schema_version().await? == 0 {
            return Ok(());
        }
        let applied: Vec<Row> =
            self.read(|tx| Box::pin(tx.all("SELECT version, checksum FROM schema_migration", &[]))).await?;
        for row in applied {
            let (version, sum): (i64, String) = (row.get("version")?, row.get("checksum")?);
            let known = migrations.iter().find(|migration| migration.version == version);
            if known.is_some_and(|migration| checksum(migration.sql) != sum) {
                return Err(Error::internal(format!("migration {version} was applied with another text")));
            }
        }
        Ok(())
    }

    async fn apply(&self, migration: Migration, clock: &Clock) -> Result<()> {
        let now = clock.now();
        self.write(move |tx| {
            Box::pin(async move {
                tx.session.migrate(migration.version, migration.sql).await?;
                tx.session.migrate(migration.version, SCHEMA_MIGRATION).await?;
                tx.execute(
                    "INSERT INTO schema_migration (version, checksum, applied_at) VALUES ($1, $2, $3)",
                    &params![migration.version, checksum(migration.sql), now],
                )
                .await?;
                Ok(())
            })
        })
        .await
    }
}

/// FNV-1a: it only has to notice an edited file.
fn checksum(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hex(&hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use tollgate_core::Timestamp;

    use super::*;
    use crate::db::Options;

    #[tokio::test]
    async fn the_roles_of_an_older_database_are_assignments() {
        let home = tempfile::tempdir().unwrap();
        let (directory, clock) = (DataDir::new(home.path()), Clock::manual(Timestamp(1_000_000)));
        directory.create().unwrap();
        let db = directory.open(Options { create: true, read_only: false }).unwrap();
        let (before, _) = MIGRATIONS.split_at(9);
        db.migrate(Some(&directory), before, &clock).await.unwrap();
        let rows = [
            "INSERT INTO organization (id, name, created_at) VALUES ('org-1', 'Ours', 1)",
            "INSERT INTO project (id, organization_id, name, is_default, created_at) VALUES ('proj_1', 'org-1', 'P', TRUE, 1)",
            "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ('user-1', 'a@b.c', 'A', FALSE, 1)",
            "INSERT INTO organization_user (organization_id, user_id, role, added_at) VALUES ('org-1', 'user-1', 'reader', 2)",
            "INSERT INTO project_user (project_id, user_id, role, added_at) VALUES ('proj_1', 'user-1', 'owner', 3)",
        ];
        db.write(move |tx| {
            Box::pin(async move {
                for sql in rows {
                    tx.execute(sql, &[]).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
        assert!(matches!(
            db.migrate(Some(&directory), MIGRATIONS, &clock).await,
            Ok(Migrated::Upgraded { .. })
        ));
        let sql = "SELECT resource_id, principal_id, role_id, organization_id FROM role_assignment ORDER BY resource_id";
        let found: Vec<Row> = db.read(move |tx| Box::pin(tx.all(sql, &[]))).await.unwrap();
        let found: Vec<[String; 4]> =
            found.iter().map(|row| std::array::from_fn(|at| row.at(at).unwrap())).collect();
        let expected = [
            ["org-1", "user-1", "role-api-organization-reader", "org-1"],
            ["proj_1", "user-1", "role-api-project-owner", "org-1"],
        ];
        assert_eq!(found, expected.map(|row| row.map(str::to_owned)));
    }
}
