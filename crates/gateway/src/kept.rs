//! What a provider keeps: whose it is.
//!
//! All projects share an account at the provider, where an id opens a response, or an item of one, to whoever names it. So
//! an id is written down as it is made, and a project can name only its own: any other is as absent, in a path and in a
//! body.

use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_core::error::Kind;
use tollgate_core::{Error, ProjectId, Result, Timestamp, UpstreamId};
use tollgate_store::{Db, Row, Tx, params};

/// Longer ids are no provider's.
const ID_MAX: usize = 256;
/// No response has more items; what is beyond is not written down, and so cannot be named.
const ITEMS_MAX: usize = 2_000;

/// What an answer says of a response that was made.
pub(crate) struct Made {
    pub(crate) id: String,
    status: Option<String>,
    /// The ids of its items, as far as it has them yet.
    items: Vec<String>,
}

#[derive(Deserialize)]
struct Said<'a> {
    id: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    store: Option<bool>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
}

impl Made {
    /// Of an answer in one piece.
    pub(crate) fn read(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice(answer).ok().and_then(Self::of)
    }

    /// Of an event of a stream, the first or the last.
    pub(crate) fn of_event(data: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event<'a> {
            #[serde(borrow)]
            response: Said<'a>,
        }
        serde_json::from_slice::<Event<'_>>(data).ok().and_then(|event| Self::of(event.response))
    }

    fn of(said: Said<'_>) -> Option<Self> {
        let Said { id, status, store, output } = said;
        let is_kept = store != Some(false) && is_id(&id);
        is_kept.then(|| Self { id, status, items: output.map(ids).unwrap_or_default() })
    }

    /// Whether it is still being made, with nobody connected.
    pub(crate) fn is_underway(&self) -> bool {
        matches!(self.status.as_deref(), Some("queued" | "in_progress"))
    }
}

/// The ids of items in a list of them.
fn ids(list: &RawValue) -> Vec<String> {
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        id: Option<String>,
    }
    let items: Vec<Item> = serde_json::from_str(list.get()).unwrap_or_default();
    items.into_iter().filter_map(|item| item.id).filter(|id| is_id(id)).take(ITEMS_MAX).collect()
}

/// Whether a text can be an id, and so stand in a path.
fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
    (1..=ID_MAX).contains(&text.len()) && text.bytes().all(is_plain) && text.bytes().any(|byte| byte != b'.')
}

/// Writes down whose a response is, and its items.
pub(crate) async fn record(
    db: &Db,
    project: ProjectId,
    made: &Made,
    upstream: UpstreamId,
    now: Timestamp,
) -> Result<()> {
    let (id, items) = (made.id.clone(), made.items.clone());
    db.write(move |tx| {
        Box::pin(async move {
            tx.execute(
                "INSERT INTO stored_response (project_id, id, upstream_id, created_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (project_id, id) DO UPDATE SET upstream_id = excluded.upstream_id",
                &params![project, id, upstream, now],
            )
            .await?;
            for item in items {
                // What one response has made may be in the input of others.
                tx.execute(
                    "INSERT INTO stored_item (project_id, id, response_id) VALUES ($1, $2, $3)
                     ON CONFLICT (project_id, id) DO NOTHING",
                    &params![project, item, id],
                )
                .await?;
            }
            Ok(())
        })
    })
    .await
}

/// Writes down what of a response is not known yet, as of one that was made in the background. Its input is not looked at: a
/// client can put into it whatever id it likes.
pub(crate) async fn complete(
    db: &Db,
    project: ProjectId,
    made: Made,
    upstream: UpstreamId,
    now: Timestamp,
) -> Result<()> {
    let mut made = made;
    let items = std::mem::take(&mut made.items);
    let missing = db.read(move |tx| {
        Box::pin(async move {
            let mut missing = Vec::new();
            for item in items {
                let sql = "SELECT id FROM stored_item WHERE project_id = $1 AND id = $2";
                if tx.optional::<Row>(sql, &params![project, item]).await?.is_none() {
                    missing.push(item);
                }
            }
            Ok(missing)
        })
    });
    made.items = missing.await?;
    if made.items.is_empty() { Ok(()) } else { record(db, project, &made, upstream, now).await }
}

/// Where a project's response is kept.
pub(crate) async fn find(db: &Db, project: ProjectId, id: &str) -> Result<Option<UpstreamId>> {
    let id = id.to_owned();
    db.read(move |tx| Box::pin(async move { place(tx, project, &id).await })).await
}

async fn place(tx: &mut Tx, project: ProjectId, id: &str) -> Result<Option<UpstreamId>> {
    if !is_id(id) {
        return Ok(None);
    }
    let sql = "SELECT upstream_id FROM stored_response WHERE project_id = $1 AND id = $2";
    let row: Option<Row> = tx.optional(sql, &params![project, id]).await?;
    row.map(|row| row.get("upstream_id")).transpose()
}

async fn place_of_item(tx: &mut Tx, project: ProjectId, id: &str) -> Result<Option<UpstreamId>> {
    if !is_id(id) {
        return Ok(None);
    }
    let sql = "SELECT response.upstream_id FROM stored_item AS item
               JOIN stored_response AS response
                 ON response.project_id = item.project_id AND response.id = item.response_id
               WHERE item.project_id = $1 AND item.id = $2";
    let row: Option<Row> = tx.optional(sql, &params![project, id]).await?;
    row.map(|row| row.get("upstream_id")).transpose()
}

/// The upstream that keeps all of what a body names; `None` if it names nothing.
pub(crate) async fn place_of_all(
    db: &Db,
    project: ProjectId,
    previous: Option<&str>,
    items: &[String],
) -> Result<Option<UpstreamId>> {
    if previous.is_none() && items.is_empty() {
        return Ok(None);
    }
    let (previous, items) = (previous.map(str::to_owned), items.to_vec());
    db.read(move |tx| {
        Box::pin(async move {
            let mut at = None;
            if let Some(previous) = previous {
                let found = place(tx, project, &previous).await?;
                at = Some(found.ok_or_else(|| previous_absent(&previous))?);
            }
            for item in items {
                let found = place_of_item(tx, project, &item).await?;
                // What two providers keep none of them has.
                let found = found.filter(|found| at.is_none_or(|at| at == *found));
                at = Some(found.ok_or_else(|| item_absent(&item))?);
            }
            Ok(at)
        })
    })
    .await
}

pub(crate) async fn forget(db: &Db, project: ProjectId, id: &str) -> Result<()> {
    let id = id.to_owned();
    db.write(move |tx| {
        Box::pin(async move {
            let sql = "DELETE FROM stored_response WHERE project_id = $1 AND id = $2";
            tx.execute(sql, &params![project, id]).await?;
            let sql = "DELETE FROM stored_item WHERE project_id = $1 AND response_id = $2";
            tx.execute(sql, &params![project, id]).await?;
            Ok(())
        })
    })
    .await
}

pub(crate) fn shown(id: &str) -> String {
    id.chars().take(ID_MAX).collect()
}

/// The answer for what is absent, and for what is another project's.
pub(crate) fn absent(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Response with id '{}' not found.", shown(id)))
}

/// The same of a response that a body names.
pub(crate) fn previous_absent(id: &str) -> Error {
    let message = format!("Previous response with id '{}' not found.", shown(id));
    Error::bad_request(message).code("previous_response_not_found").param("previous_response_id")
}

/// The same of an item.
pub(crate) fn item_absent(id: &str) -> Error {
    let message = format!(
        "Item with id '{}' not found. Items are not persisted when `store` is set to false. Try again with `store` set to \
         true, or send the item itself.",
        shown(id)
    );
    Error::new(Kind::NotFound, message).param("input")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_can_stand_in_a_path_and_leads_nowhere_else() {
        for id in ["resp_0a1b", "x", "a-b.c:d"] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a?b", "a b", "a%2fb", "é", &"x".repeat(257)] {
            assert!(!is_id(id), "{id}");
        }
    }

    #[test]
    fn the_ids_of_items_are_read_where_there_are_some() {
        let items = |answer: &str| Made::read(answer.as_bytes()).map(|made| made.items);
        let one = r#"{"id":"resp_1","output":[{"id":"rs_1","type":"reasoning"},{"type":"x"},{"id":"a/b"},{"id":"msg_1"}]}"#;
        assert_eq!(items(one), Some(vec!["rs_1".to_owned(), "msg_1".to_owned()]));
        for none in ["null", "{}", "[1]", r#""x""#, r#"[{"id":1}]"#] {
            assert_eq!(items(&format!(r#"{{"id":"resp_1","output":{none}}}"#)), Some(vec![]), "{none}");
        }
        assert_eq!(items(r#"{"id":"resp_1","store":false,"output":[{"id":"rs_1"}]}"#), None);
    }
}
