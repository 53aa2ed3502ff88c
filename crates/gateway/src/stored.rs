//! Responses that a provider keeps: whose they are, and what can be done with them.
//!
//! All projects share an account at the provider, where an id opens a response to whoever names it. So an id is written
//! down as it is made, and a project can name only its own: any other is as absent, in a path and in a body.

use std::sync::Arc;

use serde::Deserialize;
use tollgate_core::error::Kind;
use tollgate_core::{AttemptId, Error, ProjectId, Result, Timestamp, UpstreamId};
use tollgate_replica::Upstream;
use tollgate_store::{Db, Row, params};
use tollgate_wire::{ChunkFrame, ClientExchange, Exchange, Reply};

use crate::Gateway;
use crate::caller::Caller;
use crate::pool::Pool;
use crate::route::Action;
use crate::{refusal, relay, upstream};

/// Longer ids are no provider's.
const ID_MAX: usize = 256;
const QUERY_MAX: usize = 2_048;

/// What an answer says of a response that was made.
#[derive(Deserialize)]
pub(crate) struct Made {
    pub(crate) id: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    store: Option<bool>,
}

impl Made {
    /// Of an answer in one piece.
    pub(crate) fn read(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(answer).ok().filter(Self::is_kept)
    }

    /// Of an event of a stream, if that is one of the first.
    pub(crate) fn of_event(data: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            response: Made,
        }
        serde_json::from_slice::<Event>(data).ok().map(|event| event.response).filter(Self::is_kept)
    }

    fn is_kept(&self) -> bool {
        self.store != Some(false) && is_id(&self.id)
    }

    /// Whether it is still being made, with nobody connected.
    pub(crate) fn is_underway(&self) -> bool {
        matches!(self.status.as_deref(), Some("queued" | "in_progress"))
    }
}

/// Whether a text can be an id, and so stand in a path.
fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
    (1..=ID_MAX).contains(&text.len()) && text.bytes().all(is_plain) && text.bytes().any(|byte| byte != b'.')
}

/// Writes down whose a response is.
pub(crate) async fn record(
    db: &Db,
    project: ProjectId,
    id: &str,
    upstream: UpstreamId,
    now: Timestamp,
) -> Result<()> {
    let id = id.to_owned();
    db.write(move |tx| {
        Box::pin(async move {
            tx.execute(
                "INSERT INTO stored_response (project_id, id, upstream_id, created_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (project_id, id) DO UPDATE SET upstream_id = excluded.upstream_id",
                &params![project, id, upstream, now],
            )
            .await?;
            Ok(())
        })
    })
    .await
}

/// Where a project's response is kept.
pub(crate) async fn find(db: &Db, project: ProjectId, id: &str) -> Result<Option<UpstreamId>> {
    if !is_id(id) {
        return Ok(None);
    }
    let id = id.to_owned();
    let row: Option<Row> = db
        .read(move |tx| {
            Box::pin(async move {
                let sql = "SELECT upstream_id FROM stored_response WHERE project_id = $1 AND id = $2";
                tx.optional(sql, &params![project, id]).await
            })
        })
        .await?;
    row.map(|row| row.get("upstream_id")).transpose()
}

async fn forget(db: &Db, project: ProjectId, id: &str) -> Result<()> {
    let id = id.to_owned();
    db.write(move |tx| {
        Box::pin(async move {
            let sql = "DELETE FROM stored_response WHERE project_id = $1 AND id = $2";
            tx.execute(sql, &params![project, id]).await?;
            Ok(())
        })
    })
    .await
}

fn shown(id: &str) -> String {
    id.chars().take(ID_MAX).collect()
}

/// The answer for what is absent, and for what is another project's.
fn absent(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Response with id '{}' not found.", shown(id)))
}

/// The same of a response that a body names.
pub(crate) fn previous_absent(id: &str) -> Error {
    let message = format!("Previous response with id '{}' not found.", shown(id));
    Error::bad_request(message).code("previous_response_not_found").param("previous_response_id")
}

/// Serves one request about a stored response. It costs nothing at any provider, so it takes no hold.
pub(crate) async fn serve(
    gateway: &Gateway,
    pool: &Pool,
    exchange: &mut Exchange,
    caller: &Caller,
    action: Action,
    response: &str,
    id: AttemptId,
) -> Result<()> {
    let query = read_query(exchange.head.query())?;
    let found = find(&gateway.db, caller.project, response).await?.ok_or_else(|| absent(response))?;
    let upstream = gateway.replica.snapshot().upstream(found).cloned().ok_or_else(|| absent(response))?;
    let target = format!("/responses/{response}{}{query}", action.suffix());
    let answer = upstream::fetch(gateway, pool, &upstream, action.method(), &target, id).await?;
    let status = answer.head.status;
    if (200..300).contains(&status) && relay::is_events(&answer) {
        return pass_on(gateway, exchange, &upstream, answer).await;
    }
    let mut answer = answer;
    let body = relay::read_whole(relay::stall_time_max(gateway, &upstream), &mut answer).await?;
    let headers = relay::passed_headers(&answer);
    let retry_after = answer.head.headers.get("retry-after").map(str::to_owned);
    if let Some(connection) = answer.into_connection() {
        pool.put(&upstream, connection);
    }
    if status == 404 {
        return Err(absent(response));
    }
    if let Some(error) = refusal::told(&upstream, status, retry_after, &body) {
        return Err(error);
    }
    if action == Action::Delete && (200..300).contains(&status) {
        forget(&gateway.db, caller.project, response).await?;
    }
    exchange.respond(&Reply { status, headers, body }).await;
    Ok(())
}

/// Hands a stream on that was paid for when it was made.
async fn pass_on(
    gateway: &Gateway,
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
    mut answer: ClientExchange,
) -> Result<()> {
    let status = answer.head.status;
    if exchange.start(status, &relay::passed_headers(&answer)).await.is_err() {
        return Ok(());
    }
    let time_max = relay::stall_time_max(gateway, upstream);
    let mut frame = ChunkFrame::default();
    loop {
        frame.clear();
        let read = tokio::select! {
            read = tokio::time::timeout(time_max, answer.read(frame.buffer())) => read,
            () = exchange.gone() => return Ok(()),
        };
        match read {
            Ok(Ok(true)) if exchange.send(&mut frame).await.is_ok() => {}
            Ok(Ok(false)) => {
                exchange.finish().await;
                return Ok(());
            }
            // It is cut, which tells the client that something is missing.
            _ => return Ok(()),
        }
    }
}

/// The query as it goes on, of parameters that are known.
fn read_query(query: &str) -> Result<String> {
    const KNOWN: [&str; 8] = [
        "include",
        "include[]",
        "stream",
        "starting_after",
        "include_obfuscation",
        "after",
        "limit",
        "order",
    ];
    if query.is_empty() {
        return Ok(String::new());
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~=&%+[]:,".contains(&byte);
    if query.len() > QUERY_MAX || !query.bytes().all(is_plain) {
        return Err(Error::bad_request("The query of the URL cannot be read."));
    }
    for pair in query.split('&') {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        let name = tollgate_wire::percent_decoded(name).unwrap_or_default();
        if !KNOWN.contains(&name.as_str()) {
            let message = format!("Unknown parameter: '{}'.", shown(&name));
            return Err(Error::bad_request(message).code("unknown_parameter").param(shown(&name)));
        }
    }
    Ok(format!("?{query}"))
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
    fn a_query_passes_if_all_of_it_is_known() {
        assert_eq!(read_query("include[]=a.b&limit=5").unwrap(), "?include[]=a.b&limit=5");
        assert_eq!(read_query("include%5B%5D=a").unwrap(), "?include%5B%5D=a");
        for query in ["api-key=x", "limit=5&x=1", "limit=5\r\n", "limit=<", &"limit=5&".repeat(300)] {
            assert!(read_query(query).is_err(), "{query}");
        }
    }
}
