//! Asking an OpenAI-compatible server which models it has.

use std::time::Duration;

use tollgate_core::Address;
use tollgate_core::secret::Secret;
use tollgate_core::upstream::Authentication;

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

/// What is at `{address}/models`; the error says why nothing is.
pub async fn list_models(
    dialer: &Dialer,
    address: &Address,
    credential: Option<(Authentication, &Secret)>,
) -> Result<Listed, String> {
    tokio::time::timeout(TIME_MAX, ask(dialer, address, credential))
        .await
        .unwrap_or(Err("it took too long".to_owned()))
}

async fn ask(
    dialer: &Dialer,
    address: &Address,
    credential: Option<(Authentication, &Secret)>,
) -> Result<Listed, String> {
    let connection = dialer.dial(address).await.map_err(|error| error.to_string())?;
    let authorization =
        credential.map_or(String::new(), |(authentication, secret)| authentication.field(secret));
    let head = format!(
        "GET {}/models HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\naccept-encoding: identity\r\n{authorization}\r\n",
        address.path,
        address.authority()
    );
    let mut exchange = connection.send(head.as_bytes(), b"").await.map_err(|error| error.to_string())?;
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
