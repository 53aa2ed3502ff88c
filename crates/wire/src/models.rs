//! Asking an OpenAI-compatible server which models it has.

use std::time::Duration;

use tollgate_core::Address;
use tollgate_core::secret::Secret;
use tollgate_core::time::Stopwatch;
use tollgate_core::upstream::{ANTHROPIC_VERSION, Protocol};

use crate::dial::Dialer;

const TIME_MAX: Duration = Duration::from_secs(20);
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a server says of its models.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub models: Vec<String>,
    /// Whom it names as the owner of all of them; empty if it names several.
    pub owner: String,
}

/// What came of asking, as far as it went.
#[derive(Debug)]
pub struct Listing {
    /// To make the connection, TLS included.
    pub connect_time: Option<Duration>,
    /// From the request to the head of the answer.
    pub answer_time: Option<Duration>,
    pub status: Option<u16>,
    /// The error says why there is no list.
    pub listed: Result<Listed, String>,
}

/// Asks for what is at `{address}/models`. `fields` are fields of the head, each with the end of its line.
pub async fn list_models(dialer: &Dialer, address: &Address, fields: &Secret) -> Listing {
    let mut listing =
        Listing { connect_time: None, answer_time: None, status: None, listed: Ok(Listed::default()) };
    listing.listed = tokio::time::timeout(TIME_MAX, ask(dialer, address, fields, &mut listing))
        .await
        .unwrap_or(Err("it took too long".to_owned()));
    listing
}

async fn ask(
    dialer: &Dialer,
    address: &Address,
    fields: &Secret,
    listing: &mut Listing,
) -> Result<Listed, String> {
    let connecting = Stopwatch::start();
    let connection = dialer.dial(address).await.map_err(|error| error.to_string())?;
    listing.connect_time = Some(connecting.elapsed());
    // Anthropic shows twenty where it is not asked for more, and wants a version.
    let (query, version) = match Protocol::of_models(address) {
        Protocol::OpenAi => ("", String::new()),
        Protocol::Anthropic => ("?limit=1000", format!("anthropic-version: {ANTHROPIC_VERSION}\r\n")),
    };
    let head = format!(
        "GET {}/models{query} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\naccept-encoding: identity\r\n{version}{}\r\n",
        address.path,
        address.authority(),
        fields.reveal()
    );
    let asking = Stopwatch::start();
    let mut exchange = connection.send(head.as_bytes(), b"").await.map_err(|error| error.to_string())?;
    listing.answer_time = Some(asking.elapsed());
    listing.status = Some(exchange.head.status);
    if exchange.head.status != 200 {
        return Err(format!("it answered with status {}", exchange.head.status));
    }
    let mut body = Vec::new();
    while exchange.read(&mut body).await.map_err(|error| error.to_string())? {
        if body.len() > BYTES_MAX {
            return Err("its answer is too long".to_owned());
        }
    }
    let list: serde_json::Value =
        serde_json::from_slice(&body).map_err(|_| "its answer is not JSON".to_owned())?;
    let models = list["data"].as_array().ok_or("its answer is not a list of models")?;
    let texts = |name: &str| models.iter().filter_map(|model| model[name].as_str()).collect::<Vec<_>>();
    let owners = texts("owned_by");
    let owner = owners.first().filter(|first| owners.iter().all(|owner| owner == *first));
    Ok(Listed {
        models: texts("id").into_iter().map(str::to_owned).collect(),
        owner: owner.map(|owner| (*owner).to_owned()).unwrap_or_default(),
    })
}
