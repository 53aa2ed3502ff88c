//! What became of requests beside their money: noted in memory by each, written together now and then as sums.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_core::metrics::{Family, Figure, Histogram};
use tollgate_core::{KeyId, OrganizationId, Result, Timestamp};
use tollgate_store::{Db, OUTCOME_UNKNOWN, Row as StoredRow, Tx, Value, params};

use crate::snapshot::Key;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Sums are kept for so long.
pub const KEPT_SECONDS: i64 = 8 * DAY;
/// Programs of a key and a day; what others there are is one more.
const CLIENTS_MAX: i64 = 16;
/// As many are told apart between two writings.
const CLIENTS_AT_ONCE: usize = 16;
/// Keys that are written in one transaction.
const AT_ONCE: usize = 200;
const BREATH: Duration = Duration::from_millis(20);
const OTHER_CLIENTS: &str = "others";
const CLIENT_CHARACTERS_MAX: usize = 80;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Answered,
    /// The client went away before the end.
    Abandoned,
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
            Self::Abandoned => ("abandoned", String::new()),
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
        let name = if self.clients.len() < CLIENTS_AT_ONCE { name } else { OTHER_CLIENTS };
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

/// Whose, and in which hour.
type Labels = (OrganizationId, KeyId, i64);

/// What is not written yet.
#[derive(Default)]
pub(crate) struct Activity {
    waiting: Family<Labels, OfKey>,
    /// Held while some of it is on its way, so that whoever has had it has seen all that was noted before.
    writing: tokio::sync::Mutex<()>,
}

impl Activity {
    /// Costs no query. `agent` is what the client calls itself.
    pub(crate) fn note(&self, key: &Key, agent: &str, outcome: Outcome, time: Duration, now: Timestamp) {
        let count = Count { requests: 1, last_at: now.0 };
        self.waiting.update((key.organization, key.id, now.floor_to(HOUR).0), |of_key| {
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

    /// In pieces, between which others have their turn.
    pub(crate) async fn write(&self, db: &Db) -> Result<()> {
        let _turn = self.writing.lock().await;
        let mut left = Left { activity: self, rows: self.waiting.take().into_iter().collect() };
        while !left.rows.is_empty() {
            let piece = left.rows.split_off(left.rows.len().saturating_sub(AT_ONCE));
            let writing = piece.clone();
            let written = db.write(move |tx| Box::pin(async move { write(tx, &writing).await })).await;
            if let Err(error) = written {
                // The next time, then; but what may be written already is not counted twice.
                if error.code != Some(OUTCOME_UNKNOWN) {
                    left.rows.extend(piece);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// What was taken to be written and is not on its way yet: it waits again if nobody waits for that any more.
struct Left<'a> {
    activity: &'a Activity,
    rows: Vec<(Labels, OfKey)>,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        for (labels, of_key) in self.rows.drain(..) {
            self.activity.waiting.update(labels, |waiting| waiting.add(&of_key));
        }
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
    // Some put their key there.
    if agent.contains("sk-") {
        return Named::AsItIs("hidden, for it looks like a secret");
    }
    let is_plain = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    if agent.len() <= CLIENT_CHARACTERS_MAX && agent.chars().all(is_plain) {
        return Named::AsItIs(agent);
    }
    let shown = agent.chars().take(CLIENT_CHARACTERS_MAX);
    Named::Cleaned(shown.map(|letter| if is_plain(letter) { letter } else { '?' }).collect())
}

type Piece = [(Labels, OfKey)];
type Row = [Value; 7];

/// A row of the table to be added to what is there.
fn row((organization, key, start): (OrganizationId, &str, i64), kind: &str, name: &str, count: Count) -> Row {
    let requests = i64::try_from(count.requests).unwrap_or(i64::MAX);
    params![organization, key, Timestamp(start), kind, name, requests, Timestamp(count.last_at)]
}

async fn write(tx: &mut Tx, piece: &Piece) -> Result<()> {
    let mut rows: BTreeMap<(OrganizationId, String, i64, &'static str, String), Count> = BTreeMap::new();
    let mut clients = Vec::new();
    for ((organization, key, hour), of_key) in piece {
        let (key, day) = (key.text(), Timestamp(*hour).floor_to(DAY).0);
        for (outcome, count) in &of_key.outcomes {
            let (kind, name) = outcome.words();
            for (key, start) in [(key.clone(), day), (String::new(), *hour)] {
                rows.entry((*organization, key, start, kind, name.clone())).or_default().add(*count);
            }
        }
        let last_at = of_key.outcomes.values().map(|count| count.last_at).max().unwrap_or(*hour);
        for (bound, requests) in of_key.times.counts().filter(|(_, requests)| *requests > 0) {
            let name = bound.map_or_else(|| LONGEST.to_owned(), |micros| micros.to_string());
            let place = (*organization, String::new(), *hour, "time", name);
            rows.entry(place).or_default().add(Count { requests, last_at });
        }
        clients.extend(
            of_key.clients.iter().map(|(name, count)| (*organization, key.clone(), day, name, *count)),
        );
    }
    let all = rows.iter().map(|((organization, key, start, kind, name), count)| {
        row((*organization, key, *start), kind, name, *count)
    });
    tx.execute_each(ADD, all).await?;
    // Most clients are known on their day; one that is not is one of the first sixteen, or of the others.
    let sets: Vec<[Value; 6]> = clients
        .iter()
        .map(|(organization, key, day, name, count)| {
            let requests = i64::try_from(count.requests).unwrap_or(i64::MAX);
            params![organization, key, Timestamp(*day), &***name, requests, Timestamp(count.last_at)]
        })
        .collect();
    let known = tx.execute_each(ADD_TO_CLIENT, sets).await?;
    for ((organization, key, day, name, count), _) in
        clients.iter().zip(known).filter(|(_, known)| *known == 0)
    {
        let there: StoredRow = tx.one(COUNT_CLIENTS, &params![organization, key, Timestamp(*day)]).await?;
        let name = if there.at::<i64>(0)? < CLIENTS_MAX { &***name } else { OTHER_CLIENTS };
        tx.execute_each(ADD, [row((*organization, key, *day), "client", name, *count)]).await?;
    }
    Ok(())
}

const ADD: &str =
    "INSERT INTO activity (organization_id, api_key_id, start_time, kind, name, requests, last_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (organization_id, api_key_id, start_time, kind, name)
    DO UPDATE SET requests = activity.requests + excluded.requests, last_at = excluded.last_at";
const ADD_TO_CLIENT: &str = "UPDATE activity SET requests = requests + $5, last_at = $6
    WHERE organization_id = $1 AND api_key_id = $2 AND start_time = $3 AND kind = 'client' AND name = $4";
const COUNT_CLIENTS: &str = "SELECT COUNT(*) FROM activity
    WHERE organization_id = $1 AND api_key_id = $2 AND start_time = $3 AND kind = 'client'";

/// The bucket that has no end.
pub const LONGEST: &str = "more";

/// Deletes the sums that are old, some at a time.
pub(crate) async fn forget(db: &Db, now: Timestamp) -> Result<()> {
    const SOME: i64 = 1_000;
    const OLD: &str =
        "DELETE FROM activity WHERE (organization_id, api_key_id, start_time, kind, name) IN (SELECT organization_id, api_key_id,
            start_time, kind, name FROM activity WHERE start_time < $1 ORDER BY start_time LIMIT $2)";
    let before = now.plus_seconds(-KEPT_SECONDS);
    loop {
        let deleted = db
            .write(move |tx| Box::pin(async move { tx.execute(OLD, &params![before, SOME]).await }))
            .await?;
        if i64::try_from(deleted).unwrap_or(0) < SOME {
            return Ok(());
        }
        tokio::time::sleep(BREATH).await;
    }
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
        assert!(!named("my-agent sk-tgproj-abc").contains("abc"));
        assert_eq!(named("a\u{202e}b\x1b[31m"), "a?b?[31m");
        assert_eq!(named(&"é".repeat(200)), "?".repeat(CLIENT_CHARACTERS_MAX));
    }

    #[test]
    fn there_is_an_end_to_the_clients_of_a_key() {
        let mut of_key = OfKey::default();
        for number in 0..100 {
            of_key.count_client(&format!("agent {number}"), Count { requests: 1, last_at: number });
        }
        assert_eq!(of_key.clients.len(), CLIENTS_AT_ONCE + 1);
        assert_eq!(of_key.clients[OTHER_CLIENTS].requests, 100 - CLIENTS_AT_ONCE as u64);
    }
}
