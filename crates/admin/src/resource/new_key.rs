//! Making a key: its row and its first secret. The one place where a secret exists in plain.

use tollgate_core::key::{KeyKind, NewKey};
use tollgate_core::labels::Labels;
use tollgate_core::secret::{Keyring, ShownOnce};
use tollgate_core::{Clock, KeyId, OrganizationId, Principal, ProjectId, Result, Scopes, Timestamp};
use tollgate_store::{Entity, Tx, params};

use crate::resource::labels;

/// Stores what verifies a secret, as the one of its key that was made last.
pub(crate) async fn insert_secret(
    tx: &mut Tx,
    keyring: &Keyring,
    id: KeyId,
    key: &NewKey,
    now: Timestamp,
) -> Result<()> {
    let pepper = keyring.pepper();
    tx.execute(
        "INSERT INTO api_key_secret (locator, api_key_id, scheme, pepper_version, verifier, created_at)
         VALUES ($1, $2, 'hmac-sha256', $3, $4, $5)",
        &params![key.locator, id, pepper.key.version, pepper.verifier(key.text.reveal()).to_vec(), now],
    )
    .await?;
    Ok(())
}

/// What a new key is to be.
pub(crate) struct NewKeyRow {
    pub(crate) kind: KeyKind,
    pub(crate) organization: OrganizationId,
    pub(crate) project: Option<ProjectId>,
    pub(crate) owner: Principal,
    pub(crate) name: String,
    pub(crate) scopes: Scopes,
    /// The projects that an admin key is restricted to.
    pub(crate) restricted_to: Option<Vec<ProjectId>>,
    pub(crate) expires_at: Option<Timestamp>,
    /// Who made it; `None` at the machine itself.
    pub(crate) created_by: Option<Principal>,
    pub(crate) labels: Labels,
}

impl NewKeyRow {
    /// Stores the key and returns its id and the text that opens it, which is nowhere else.
    pub(crate) async fn insert(
        &self,
        tx: &mut Tx,
        clock: &Clock,
        keyring: &Keyring,
    ) -> Result<(KeyId, ShownOnce)> {
        let (id, now): (KeyId, _) = (clock.next_id(), clock.now());
        let key = NewKey::generate(self.kind);
        tx.execute(
            "INSERT INTO api_key (id, kind, organization_id, project_id, user_id, service_account_id, name, scopes,
                redacted_value, created_at, created_by, expires_at, is_active, restricted_to, labels, rests_since, number)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                (SELECT COALESCE(MAX(number), 0) + 1 FROM api_key))",
            &params![
                id,
                self.kind.as_str(),
                self.organization,
                self.project,
                self.owner.user(),
                self.owner.service_account(),
                self.name,
                self.scopes.to_stored(),
                key.redacted,
                now,
                self.created_by,
                self.expires_at,
                true,
                self.restricted_to.as_ref().map(|projects| {
                    projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                }),
                labels::to_stored(&self.labels),
                now.floor_to(86_400),
            ],
        )
        .await?;
        insert_secret(tx, keyring, id, &key, now).await?;
        tx.log_change(Some(self.organization), Entity::ApiKey, &id.to_string()).await?;
        Ok((id, ShownOnce(key.text)))
    }
}
