//! One request to a server and all of its answer, for what is asked now and then.

use std::time::Duration;

use tollgate_core::Address;
use tollgate_core::secret::Secret;

use crate::dial::Dialer;

const TIME_MAX: Duration = Duration::from_secs(15);
const BYTES_MAX: usize = 1024 * 1024;

/// What is asked. `fields` are fields of the head, each with the end of its line.
pub struct Asked<'a> {
    pub method: &'a str,
    /// With its query, if it has one.
    pub path: &'a str,
    pub fields: Secret,
    pub body: Secret,
}

/// The status and the body of the answer; the error says why there is none.
pub async fn fetch(dialer: &Dialer, address: &Address, asked: &Asked<'_>) -> Result<(u16, Vec<u8>), String> {
    let exchange = async {
        let connection = dialer.dial(address).await.map_err(|error| error.to_string())?;
        let head = Secret::new(format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\naccept-encoding: identity\r\nuser-agent: tollgate\r\n\
             content-length: {}\r\n{}\r\n",
            asked.method,
            asked.path,
            address.authority(),
            asked.body.reveal().len(),
            asked.fields.reveal(),
        ));
        let sent = connection.send(head.reveal().as_bytes(), asked.body.reveal().as_bytes()).await;
        let mut exchange = sent.map_err(|error| error.to_string())?;
        let mut body = Vec::new();
        while exchange.read(&mut body).await.map_err(|error| error.to_string())? {
            if body.len() > BYTES_MAX {
                return Err("its answer is too long".to_owned());
            }
        }
        Ok((exchange.head.status, body))
    };
    tokio::time::timeout(TIME_MAX, exchange).await.unwrap_or(Err("it took too long".to_owned()))
}
