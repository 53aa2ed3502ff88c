//! HTTP/1.1 on both sides of the gateway, as bytes: strict about what it reads, one write for what it hands on.
//!
//! A head is parsed once and looked at in place; it is never forwarded, only rebuilt. A message whose end two readers
//! could see in two places (both lengths, two lengths, odd codings, bare line feeds, folded lines) is refused and its
//! connection closed. Nothing here knows keys, models or money.

mod body;
mod client;
mod dial;
mod exchange;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod h2_client;
mod h2_server;
mod h2_stream;
mod head;
mod models;
mod server;
mod stream;
mod tls;

pub use body::{BodyError, ChunkFrame};
pub use client::{ClientConnection, Exchange as ClientExchange, ResponseError};
pub use dial::{DialError, Dialer};
pub use exchange::{Exchange, Reply};
pub use fetch::{Asked, fetch};
pub use head::{Headers, RequestHead, ResponseHead, percent_decoded, percent_encoded};
pub use models::{Listed, Listing, list_models};
pub use server::{Limits, Server, Service};
pub use tls::{ServerTls, client_config, client_config_trusting};
