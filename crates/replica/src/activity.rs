//! What became of requests beside their money: noted in memory by each, written together now and then as sums.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_core::metrics::{Family, Figure, Histogram};
use tollgate_core::{KeyId, OrganizationId, Result, Timestamp};
use tollgate_store::{Db, Row, Tx, params};

use crate::snapshot::Key;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Sums are kept for so long.
pub const KEPT_SECONDS: i64 = 8 * DAY;
/// Programs of a key and a day; what others there are is one more.
const CLIENTS_MAX: usize = 16;
const OTHER_CLIENTS: &str = "others";
const CLIENT_CHARACTERS_MAX: usize = 80;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Answered,
    /// Tollgate did not let it through: the code of the error.
    Refused(&'static str),
    /// Tollgate or an upstream could not answer it: the code of the error.
    Failed(&'static str),
    /// An upstream answered with this status.
    Upstream(u16),
}

impl Outcome {
    /// As it is stored.
    fn words(self) -> (&'static str, String) {
        match self {
            Self::Answered => ("answered", String::new()),
            Self::Refused(code) => ("refused", code.to_owned()),
            Self::Failed(code) => ("failed", code.to_owned()),
            Self::Upstream(status) => ("failed", format!("upstream_{status}")),
        }
    }
}

/// How often, and when for the last time.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    requests: u64,
    last_at: i64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.last_at = self.last_at.max(other.last_at);
    }
}

/// Of one key, since it was written last.
#[derive(Clone, Default)]
struct OfKey {
    outcomes: BTreeMap<Outcome, Count>,
    times: Histogram,
    clients: BTreeMap<Box<str>, Count>,
}

impl OfKey {
    fn count_client(&mut self, name: &str, count: Count) {
        if let Some(known) = self.clients.get_mut(name) {
            return known.add(count);
        }
        let name = if self.clients.len() < CLIENTS_MAX { name } else { OTHER_CLIENTS };
        self.clients.entry(Box::from(name)).or_default().add(count);
    }
}

impl Figure for OfKey {
    fn add(&mut self, other: &Self) {
        for (outcome, count) in &other.outcomes {
            self.outcomes.entry(*outcome).or_default().add(*count);
        }
        self.times.add(&other.times);
        for (name, count) in &other.clients {
            self.count_client(name, *count);
        }
    }
}

/// What is not written yet.
#[derive(Default)]
pub(crate) struct Activity(Family<(OrganizationId, KeyId), OfKey>);

impl Activity {
    /// Costs no query. `agent` is what the client calls itself.
    pub(crate) fn note(&self, key: &Key, agent: &str, outcome: Outcome, time: Duration, now: Timestamp) {
        let count = Count { requests: 1, last_at: now.0 };
        self.0.update((key.organization, key.id), |of_key| {
            of_key.outcomes.entry(outcome).or_default().add(count);
            if outcome == Outcome::Answered {
                of_key.times.observe(time);
            }
            match client(agent) {
                Named::AsItIs(agent) => of_key.count_client(agent, count),
                Named::Cleaned(agent) => of_key.count_client(&agent, count),
            }
        });
    }

    pub(crate) async fn write(&self, db: &Db, now: Timestamp) -> Result<()> {
        let all = self.0.take();
        if all.is_empty() {
            return Ok(());
        }
        let writing = all.clone();
        let written = db.write(move |tx| Box::pin(async move { write(tx, &writing, now).await })).await;
        if written.is_err() {
            // The next time, then.
            for (labels, of_key) in all {
                self.0.update(labels, |waiting| waiting.add(&of_key));
            }
        }
        written
    }
}

enum Named<'a> {
    AsItIs(&'a str),
    Cleaned(String),
}

/// What a client calls itself, such as `OpenAI/Python 2.8.0`, as far as it can be shown.
fn client(agent: &str) -> Named<'_> {
    if agent.is_empty() {
        return Named::AsItIs("none");
    }
    let is_plain = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    if agent.len() <= CLIENT_CHARACTERS_MAX && agent.chars().all(is_plain) {
        return Named::AsItIs(agent);
    }
    let shown = agent.chars().take(CLIENT_CHARACTERS_MAX);
    Named::Cleaned(shown.map(|letter| if is_plain(letter) { letter } else { '?' }).collect())
}

/// Of all keys of an organization.
#[derive(Default)]
struct OfOrganization {
    outcomes: BTreeMap<Outcome, Count>,
    times: Histogram,
}

async fn write(tx: &mut Tx, all: &BTreeMap<(OrganizationId, KeyId), OfKey>, now: Timestamp) -> Result<()> {
    let (hour, day) = (now.floor_to(HOUR), now.floor_to(DAY));
    let mut organizations: BTreeMap<OrganizationId, OfOrganization> = BTreeMap::new();
    for ((organization, key), of_key) in all {
        let sum = organizations.entry(*organization).or_default();
        sum.times.add(&of_key.times);
        let place = Place { organization: *organization, key: key.text(), start: day };
        for (outcome, count) in &of_key.outcomes {
            sum.outcomes.entry(*outcome).or_default().add(*count);
            let (kind, name) = outcome.words();
            place.add(tx, kind, &name, *count).await?;
        }
        let mut known = place.clients(tx).await?;
        for (name, count) in &of_key.clients {
            let is_known = known.iter().any(|known| **known == **name);
            let name = if is_known || known.len() < CLIENTS_MAX { name } else { OTHER_CLIENTS };
            place.add(tx, "client", name, *count).await?;
            if !is_known {
                known.push(name.to_owned());
            }
        }
    }
    for (organization, sum) in organizations {
        let place = Place { organization, key: String::new(), start: hour };
        for (outcome, count) in sum.outcomes {
            let (kind, name) = outcome.words();
            place.add(tx, kind, &name, count).await?;
        }
        for (bound, requests) in sum.times.counts().filter(|(_, requests)| *requests > 0) {
            let name = bound.map_or_else(|| LONGEST.to_owned(), |micros| micros.to_string());
            place.add(tx, "time", &name, Count { requests, last_at: now.0 }).await?;
        }
    }
    Ok(())
}

/// The bucket that has no end.
pub const LONGEST: &str = "more";

struct Place {
    organization: OrganizationId,
    key: String,
    start: Timestamp,
}

impl Place {
    async fn add(&self, tx: &mut Tx, kind: &str, name: &str, count: Count) -> Result<()> {
        tx.execute(
            "INSERT INTO activity (organization_id, api_key_id, start_time, kind, name, requests, last_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (organization_id, api_key_id, start_time, kind, name)
             DO UPDATE SET requests = activity.requests + excluded.requests, last_at = excluded.last_at",
            &params![
                self.organization,
                self.key,
                self.start,
                kind,
                name,
                i64::try_from(count.requests).unwrap_or(i64::MAX),
                Timestamp(count.last_at)
            ],
        )
        .await?;
        Ok(())
    }

    async fn clients(&self, tx: &mut Tx) -> Result<Vec<String>> {
        let sql = "SELECT name FROM activity WHERE organization_id = $1 AND api_key_id = $2 AND start_time = $3 AND kind = 'client'";
        let rows: Vec<Row> = tx.all(sql, &params![self.organization, self.key, self.start]).await?;
        rows.iter().map(|row| row.at(0)).collect()
    }
}

/// Deletes the sums that are old.
pub(crate) async fn forget(db: &Db, now: Timestamp) -> Result<()> {
    let before = now.plus_seconds(-KEPT_SECONDS);
    let deleting = db.write(move |tx| {
        Box::pin(
            async move { tx.execute("DELETE FROM activity WHERE start_time < $1", &params![before]).await },
        )
    });
    deleting.await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_shown_as_it_calls_itself_as_far_as_it_can_be() {
        let named = |agent: &str| match client(agent) {
            Named::AsItIs(agent) => agent.to_owned(),
            Named::Cleaned(agent) => agent,
        };
        assert_eq!(named("OpenAI/Python 2.8.0"), "OpenAI/Python 2.8.0");
        assert_eq!(named(""), "none");
        assert_eq!(named("a\u{202e}b\x1b[31m"), "a?b?[31m");
        assert_eq!(named(&"é".repeat(200)), "?".repeat(CLIENT_CHARACTERS_MAX));
    }

    #[test]
    fn there_is_an_end_to_the_clients_of_a_key() {
        let mut of_key = OfKey::default();
        for number in 0..100 {
            of_key.count_client(&format!("agent {number}"), Count { requests: 1, last_at: number });
        }
        assert_eq!(of_key.clients.len(), CLIENTS_MAX + 1);
        assert_eq!(of_key.clients[OTHER_CLIENTS].requests, 100 - CLIENTS_MAX as u64);
    }
}
