//! The chain of an organization's audit events: nobody without the secrets file can change, remove or reorder one unseen.
//!
//! Whoever has the file can forge a chain, and whoever has the database can cut its end off: a checkpoint that is kept
//! elsewhere shows both.

use std::collections::BTreeMap;
use std::fmt;

use tollgate_core::secret::{Keyring, Pepper, hex};
use tollgate_core::{Error, OrganizationId, Result};
use tollgate_store::{Db, FromRow, Reading, Row, Tx, params};

pub(crate) type Mac = [u8; 32];

/// What a chain begins with.
const BEGINNING: Mac = [0; 32];

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) organization: OrganizationId,
    pub(crate) event_type: String,
    pub(crate) effective_at: i64,
    pub(crate) project: Option<String>,
    pub(crate) project_name: Option<String>,
    pub(crate) actor: String,
    pub(crate) actor_id: Option<String>,
    pub(crate) actor_email: Option<String>,
    pub(crate) actor_key: Option<String>,
    pub(crate) resource_id: String,
    pub(crate) payload: String,
}

impl FromRow for Entry {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            organization: row.get("organization_id")?,
            event_type: row.get("event_type")?,
            effective_at: row.get("effective_at")?,
            project: row.get("project_id")?,
            project_name: row.get("project_name")?,
            actor: row.get("actor")?,
            actor_id: row.get("actor_id")?,
            actor_email: row.get("actor_email")?,
            actor_key: row.get("actor_key_id")?,
            resource_id: row.get("resource_id")?,
            payload: row.get("payload")?,
        })
    }
}

impl Entry {
    /// Over everything, each part with its length, so that no two entries have the same bytes.
    fn mac(&self, pepper: &Pepper, seq: i64, before: &Mac) -> Mac {
        let (organization, effective_at) = (self.organization.to_string(), self.effective_at.to_string());
        let parts = [
            Some(self.id.as_str()),
            Some(organization.as_str()),
            Some(self.event_type.as_str()),
            Some(effective_at.as_str()),
            self.project.as_deref(),
            self.project_name.as_deref(),
            Some(self.actor.as_str()),
            self.actor_id.as_deref(),
            self.actor_email.as_deref(),
            self.actor_key.as_deref(),
            Some(self.resource_id.as_str()),
            Some(self.payload.as_str()),
        ];
        let mut bytes = format!("tollgate audit\0{seq}\0{}\0", hex(before));
        for part in parts {
            match part {
                Some(part) => bytes.extend([part.len().to_string().as_str(), ":", part]),
                None => bytes.push('-'),
            }
        }
        pepper.verifier(&bytes)
    }
}

/// Writes an event as the next of its chain.
pub(crate) async fn append(tx: &mut Tx, keyring: &Keyring, entry: &Entry) -> Result<()> {
    let (seq, before) = head(tx, entry.organization).await?.unwrap_or((0, BEGINNING));
    let (seq, pepper) = (seq + 1, keyring.pepper());
    let mac = entry.mac(pepper, seq, &before);
    tx.execute(
        "INSERT INTO audit_log (id, organization_id, event_type, effective_at, project_id, project_name, actor,
            actor_id, actor_email, actor_key_id, resource_id, payload, seq, mac, pepper_version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        &params![
            entry.id,
            entry.organization,
            entry.event_type,
            entry.effective_at,
            entry.project,
            entry.project_name,
            entry.actor,
            entry.actor_id,
            entry.actor_email,
            entry.actor_key,
            entry.resource_id,
            entry.payload,
            seq,
            mac.to_vec(),
            pepper.key.version,
        ],
    )
    .await?;
    set_head(tx, entry.organization, seq, &mac).await
}

async fn set_head(tx: &mut Tx, organization: OrganizationId, seq: i64, mac: &Mac) -> Result<()> {
    tx.execute(
        "INSERT INTO audit_head (organization_id, seq, mac) VALUES ($1, $2, $3)
         ON CONFLICT (organization_id) DO UPDATE SET seq = excluded.seq, mac = excluded.mac",
        &params![organization, seq, mac.to_vec()],
    )
    .await?;
    Ok(())
}

async fn head(tx: &mut Tx, organization: OrganizationId) -> Result<Option<(i64, Mac)>> {
    let row: Option<Row> = tx
        .optional("SELECT seq, mac FROM audit_head WHERE organization_id = $1", &params![organization])
        .await?;
    row.map(|row| Ok((row.get("seq")?, read_mac(&row)?))).transpose()
}

fn read_mac(row: &Row) -> Result<Mac> {
    let bytes: Option<Vec<u8>> = row.get("mac")?;
    Ok(bytes.and_then(|bytes| Mac::try_from(bytes).ok()).unwrap_or(BEGINNING))
}

/// Chains the events of organizations from before there were chains. Where there is a chain it is left as it is: what
/// stands beside it was put there by somebody else. Whoever takes all of a chain away makes it look as from before; only a
/// checkpoint that is kept elsewhere tells.
pub async fn begin(db: &Db, keyring: &Keyring) -> Result<()> {
    let keyring = keyring.clone();
    db.write(move |tx| {
        Box::pin(async move {
            let organizations: Vec<Row> = tx
                .all(
                    "SELECT DISTINCT a.organization_id FROM audit_log a
                     WHERE NOT EXISTS (SELECT 1 FROM audit_head h WHERE h.organization_id = a.organization_id)
                        AND NOT EXISTS (SELECT 1 FROM audit_log b
                            WHERE b.organization_id = a.organization_id AND b.mac IS NOT NULL)",
                    &[],
                )
                .await?;
            for row in organizations {
                begin_one(tx, &keyring, row.at(0)?).await?;
            }
            Ok(())
        })
    })
    .await
}

async fn begin_one(tx: &mut Tx, keyring: &Keyring, organization: OrganizationId) -> Result<()> {
    let entries: Vec<Entry> = tx
        .all("SELECT * FROM audit_log WHERE organization_id = $1 ORDER BY id", &params![organization])
        .await?;
    let (mut seq, mut before, pepper) = (0, BEGINNING, keyring.pepper());
    for entry in entries {
        seq += 1;
        before = entry.mac(pepper, seq, &before);
        tx.execute(
            "UPDATE audit_log SET seq = $1, mac = $2, pepper_version = $3 WHERE id = $4",
            &params![seq, before.to_vec(), pepper.key.version, entry.id],
        )
        .await?;
    }
    set_head(tx, organization, seq, &before).await
}

/// The end of an organization's chain at some time: that many events, up to one with that mac.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub organization: OrganizationId,
    pub seq: i64,
    mac: Mac,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.organization, self.seq, hex(&self.mac))
    }
}

impl Checkpoint {
    /// Reads what [`Checkpoint`] is written as.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(':');
        let (organization, seq, mac) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = mac.as_bytes();
        if parts.next().is_some() || digits.len() != 64 {
            return None;
        }
        let mut bytes = BEGINNING;
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self {
            organization: OrganizationId::parse(organization)?,
            seq: seq.parse().ok().filter(|seq| *seq >= 0)?,
            mac: bytes,
        })
    }
}

/// The ends of all chains as of now.
pub async fn checkpoints(db: &Db) -> Result<Vec<Checkpoint>> {
    db.read(|tx| Box::pin(heads(tx))).await
}

async fn heads(tx: &mut Tx) -> Result<Vec<Checkpoint>> {
    let rows: Vec<Row> =
        tx.all("SELECT organization_id, seq, mac FROM audit_head ORDER BY organization_id", &[]).await?;
    let read = |row: &Row| {
        Ok(Checkpoint {
            organization: row.get("organization_id")?,
            seq: row.get("seq")?,
            mac: read_mac(row)?,
        })
    };
    rows.iter().map(read).collect()
}

/// A row of the log with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    entry: Entry,
    /// `None` for one that is in no chain.
    seq: Option<i64>,
    mac: Mac,
    pepper_version: i64,
}

impl FromRow for Stored {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            entry: Entry::from_row(row)?,
            seq: row.get("seq")?,
            mac: read_mac(row)?,
            pepper_version: row.get::<Option<i64>>("pepper_version")?.unwrap_or(0),
        })
    }
}

/// What a look at all chains found.
#[derive(Debug, Default)]
pub struct Verified {
    pub events: u64,
    pub organizations: usize,
    /// What is wrong, in words.
    pub faults: Vec<String>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.faults.is_empty() { "intact" } else { "NOT INTACT" };
        write!(f, "audit: {} events of {} organizations: {state}", self.events, self.organizations)?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Looks at every event of every organization, and whether each chain goes on from the checkpoints given.
pub async fn verify(db: &Db, keyring: &Keyring, since: &[Checkpoint]) -> Result<Verified> {
    let (keyring, since) = (keyring.clone(), since.to_vec());
    db.read_for(Reading::Long, move |tx| {
        Box::pin(async move {
            let heads = heads(tx).await?;
            let mut verifier = Verifier::new(&keyring, &heads, &since);
            let sql = "SELECT * FROM audit_log ORDER BY organization_id, seq";
            tx.for_each(sql, &[], |stored: Stored| {
                verifier.look(&stored);
                Ok(())
            })
            .await?;
            Ok(verifier.finish())
        })
    })
    .await
}

/// Goes along the rows of all chains, each chain in the order of its numbers.
struct Verifier<'v> {
    keyring: &'v Keyring,
    heads: BTreeMap<OrganizationId, &'v Checkpoint>,
    since: &'v [Checkpoint],
    /// What the checkpoints say of rows, by organization and number.
    known: BTreeMap<(OrganizationId, i64), Vec<&'v Mac>>,
    /// The last row that was looked at of each organization.
    ends: BTreeMap<OrganizationId, (i64, Mac)>,
    verified: Verified,
}

impl<'v> Verifier<'v> {
    fn new(keyring: &'v Keyring, heads: &'v [Checkpoint], since: &'v [Checkpoint]) -> Self {
        let heads = heads.iter().map(|head| (head.organization, head)).collect();
        let mut known: BTreeMap<_, Vec<&Mac>> = BTreeMap::new();
        for one in since {
            known.entry((one.organization, one.seq)).or_default().push(&one.mac);
        }
        Self { keyring, heads, since, known, ends: BTreeMap::new(), verified: Verified::default() }
    }

    fn fault(&mut self, fault: String) {
        self.verified.faults.push(fault);
    }

    fn look(&mut self, stored: &Stored) {
        self.verified.events += 1;
        let Stored { entry, seq, mac, pepper_version } = stored;
        let (organization, id) = (entry.organization, &entry.id);
        let Some(seq) = *seq else {
            return self.fault(format!("{organization}: {id} is in no chain: it was put there"));
        };
        let (last, before) = self.ends.get(&organization).copied().unwrap_or((0, BEGINNING));
        let is_next = seq == last + 1;
        if !is_next {
            self.fault(format!("{organization}: {} are missing before {seq}, {id}", seq - last - 1));
        }
        match self.keyring.pepper_of(*pepper_version) {
            None => self.fault(format!(
                "{organization}: {seq}, {id}, is under a pepper that is not in the secrets file"
            )),
            // Of one after a gap it is not known what was before it.
            Some(pepper) if is_next && entry.mac(pepper, seq, &before) != *mac => {
                self.fault(format!(
                    "{organization}: {seq}, {id}, is not what was written, or not in its place"
                ));
            }
            Some(_) => {}
        }
        let known = self.known.get(&(organization, seq));
        if known.is_some_and(|known| known.iter().any(|known| *known != mac)) {
            self.fault(format!("{organization}: {seq}, {id}, is not the one of the checkpoint"));
        }
        self.ends.insert(organization, (seq, *mac));
    }

    fn finish(mut self) -> Verified {
        let organizations: Vec<OrganizationId> = self.heads.keys().chain(self.ends.keys()).copied().collect();
        for known in self.since {
            let last = self.ends.get(&known.organization).map_or(0, |(last, _)| *last);
            if last < known.seq {
                let (organization, seq) = (known.organization, known.seq);
                self.fault(format!(
                    "{organization}: ends at {last}, and the checkpoint is of {seq}: its end was cut off"
                ));
            }
        }
        let all: std::collections::BTreeSet<OrganizationId> = organizations.into_iter().collect();
        for organization in &all {
            let end = self.ends.get(organization).copied().unwrap_or((0, BEGINNING));
            let head = self.heads.get(organization).map_or((0, BEGINNING), |head| (head.seq, head.mac));
            if head != end {
                let (head, end) = (head.0, end.0);
                self.fault(format!("{organization}: ends at {end}, and its end was written as {head}"));
            }
        }
        self.verified.organizations = all.len();
        self.verified
    }
}

/// Reads checkpoints, one in a line, which may be one of the server's log; an error for a line without any.
pub fn read_checkpoints(text: &str) -> Result<Vec<Checkpoint>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let read = |line: &str| {
        let mut words = line.split(|letter: char| letter.is_whitespace() || "=\"',".contains(letter));
        words.find_map(Checkpoint::parse).ok_or_else(|| {
            let shown: String = line.chars().take(120).collect();
            Error::bad_request(format!(
                "'{shown}' is no checkpoint, as `tollgate audit checkpoint` prints them."
            ))
        })
    };
    lines.map(read).collect()
}

#[cfg(test)]
mod tests;
