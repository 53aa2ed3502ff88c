//! The change log: what the replica has to read again, in the order of the commits.

use tollgate_core::OrganizationId;
use tollgate_core::Result;

use crate::params;
use crate::row::{FromRow, Row};
use crate::tx::Tx;

/// What kind of thing changed, as far as authorizing a request is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity {
    Organization,
    User,
    Group,
    Role,
    Project,
    ApiKey,
    Upstream,
    Model,
    /// The spend limits of a scope. The ledger reads them, inside of its batches.
    SpendLimit,
}

impl Entity {
    const ALL: [Self; 9] = [
        Self::Organization,
        Self::User,
        Self::Group,
        Self::Role,
        Self::Project,
        Self::ApiKey,
        Self::Upstream,
        Self::Model,
        Self::SpendLimit,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::User => "user",
            Self::Group => "group",
            Self::Role => "role",
            Self::Project => "project",
            Self::ApiKey => "api_key",
            Self::Upstream => "upstream",
            Self::Model => "model",
            Self::SpendLimit => "spend_limit",
        }
    }
}

/// One entry of the change log.
#[derive(Clone, Debug)]
pub struct Change {
    pub seq: i64,
    /// `None` for an entity that a newer version wrote and this one does not know.
    pub entity: Option<Entity>,
    pub entity_id: String,
}

impl FromRow for Change {
    fn from_row(row: &Row) -> Result<Self> {
        let word: String = row.get("entity")?;
        Ok(Self {
            seq: row.get("seq")?,
            entity: Entity::ALL.into_iter().find(|entity| entity.as_str() == word),
            entity_id: row.get("entity_id")?,
        })
    }
}

impl Tx {
    /// Notes a change in this transaction. Whoever waits for the transaction's number in the replica sees its effect.
    pub async fn log_change(
        &mut self,
        organization: Option<OrganizationId>,
        entity: Entity,
        entity_id: &str,
    ) -> Result<()> {
        let seq = self.last_change().await? + 1;
        self.execute(
            "INSERT INTO change_log (seq, organization_id, entity, entity_id) VALUES ($1, $2, $3, $4)",
            &params![seq, organization, entity.as_str(), entity_id],
        )
        .await?;
        self.changed_to = Some(seq);
        Ok(())
    }

    /// The number of the newest change that is visible here; 0 before the first.
    pub async fn last_change(&mut self) -> Result<i64> {
        let row: Row = self.one("SELECT COALESCE(MAX(seq), 0) AS seq FROM change_log", &[]).await?;
        row.get("seq")
    }

    /// The ids of one kind of entity that changed after `seq`.
    pub async fn changed_after(&mut self, seq: i64, entity: Entity) -> Result<Vec<String>> {
        let rows: Vec<Row> = self
            .all(
                "SELECT DISTINCT entity_id FROM change_log WHERE seq > $1 AND entity = $2",
                &params![seq, entity.as_str()],
            )
            .await?;
        rows.iter().map(|row| row.at(0)).collect()
    }

    /// The changes after `seq`, oldest first, at most `limit`.
    pub async fn changes_after(&mut self, seq: i64, limit: usize) -> Result<Vec<Change>> {
        self.all(
            "SELECT seq, entity, entity_id FROM change_log WHERE seq > $1 ORDER BY seq LIMIT $2",
            &params![seq, limit],
        )
        .await
    }
}
