//! What can be done with the responses that a provider keeps.

use std::sync::Arc;

use tollgate_core::{AttemptId, Error, Result};
use tollgate_replica::Upstream;
use tollgate_wire::{ChunkFrame, ClientExchange, Exchange, Reply};

use crate::Gateway;
use crate::caller::Caller;
use crate::kept::{self, Made, absent, shown};
use crate::pool::Pool;
use crate::route::Action;
use crate::{refusal, relay, upstream};

const QUERY_MAX: usize = 2_048;

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
    let found = kept::find(&gateway.db, caller.project, response).await?;
    let found = found.ok_or_else(|| absent(response))?;
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
        kept::forget(&gateway.db, caller.project, response).await?;
    }
    // Made in the background, it has its items only now.
    if let Some(made) = Made::read(&body).filter(|made| action == Action::Retrieve && made.id == response) {
        let completed = kept::complete(&gateway.db, caller.project, made, found, gateway.clock.now()).await;
        if let Err(error) = completed {
            tracing::error!(%error, response, "the items of a stored response could not be written down");
        }
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
    fn a_query_passes_if_all_of_it_is_known() {
        assert_eq!(read_query("include[]=a.b&limit=5").unwrap(), "?include[]=a.b&limit=5");
        assert_eq!(read_query("include%5B%5D=a").unwrap(), "?include%5B%5D=a");
        for query in ["api-key=x", "limit=5&x=1", "limit=5\r\n", "limit=<", &"limit=5&".repeat(300)] {
            assert!(read_query(query).is_err(), "{query}");
        }
    }
}
