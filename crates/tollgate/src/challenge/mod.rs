//! `tollgate challenge`: puts any OpenAI-compatible gateway that stands before `tollgate simulate` to the test, and prints
//! one page. The simulated provider's own books are the witness: what it was asked for and what it would bill.

mod books;
mod caller;
mod page;
mod phase;

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tollgate_core::secret::Secret;
use tollgate_core::{Address, Clock, Money, price_book};

use crate::api::client::Client;
use crate::api::session::Failure;
use crate::api::{Format, read_secret};
use books::{Gateway, Provider};
use caller::Target;
use page::Page;

#[derive(Args, Debug)]
pub struct ChallengeOptions {
    /// Base URL of the gateway, ending in /v1
    #[arg(long, value_name = "URL")]
    target: String,
    /// File with the key to call with, or - for stdin. With an admin key it is revoked in the end
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Base URL of the `tollgate simulate` behind it; its books are cleared
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8090/v1")]
    simulator: String,
    /// The budget of the key that is still left, in US dollars [default: what the gateway's admin API says]
    #[arg(long, value_name = "USD")]
    limit: Option<String>,
    #[arg(long, value_name = "MODEL", default_value = "gpt-4o")]
    model: String,
    /// Requests of the storm
    #[arg(long, value_name = "COUNT", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    requests: u32,
    /// How many of them at once
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    concurrency: u16,
    /// Streams that are cut, half by the client and half by the provider
    #[arg(long, value_name = "COUNT", default_value_t = 60, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    streams: u16,
    /// How long a deleted key is watched if it goes on working
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    watch: u64,
    /// Shell command that revokes the key, for a gateway whose admin API is not OpenAI's
    #[arg(long, value_name = "COMMAND")]
    revoke_command: Option<String>,
    /// Shell command that prints what the key has spent in US dollars, for such a gateway
    #[arg(long, value_name = "COMMAND")]
    spent_command: Option<String>,
}

/// All phases one after another hit the same key: streams are cut while there is money, agents work beside each other
/// on what is left, the storm spends it, and at last the key is revoked in use. `false` if the gateway did not hold.
pub async fn challenge(
    options: ChallengeOptions,
    admin_key: Option<Secret>,
    format: Format,
) -> Result<bool, Failure> {
    let key = read_secret(&options.key_file)?;
    let address = address("target", &options.target)?;
    let simulator = address_of_simulator(&options.simulator)?;
    let (version, figures) = price_book::in_force(&options.model, &[], Clock::system().now());
    let price = figures
        .price(version)
        .ok_or_else(|| format!("There is no price for {}; take a model of the price list.", options.model))?;
    let provider = Provider::new(simulator, price.rates);
    provider.reset().await?;
    let gateway = Gateway::find(
        &address,
        &key,
        admin_key,
        options.revoke_command.clone(),
        options.spent_command.clone(),
    )
    .await?;
    let left = match &options.limit {
        Some(text) => read_dollars(text)?,
        None => gateway.left().await?.ok_or(
            "It is not known how much the key may still spend. Set a spend limit of its project first, which the \
             challenge then spends, and give --admin-key-file FILE of a gateway whose admin API is OpenAI's; or give \
             --limit USD."
                .to_owned(),
        )?,
    };
    let target = Target::new(address, key, options.model.clone());
    let mut page = Page::new(&options.target, &options.simulator, left);
    let recorded_before = gateway.recorded().await?;

    phase::cut_streams(&target, &provider, &mut page, options.streams).await?;
    phase::agents(&target, &provider, &mut page, left).await?;
    phase::storm(&target, &provider, &mut page, left, options.requests, options.concurrency).await?;
    page.compare(&provider.total().await?, recorded_before, &gateway).await?;
    let watched_max = std::time::Duration::from_secs(options.watch);
    phase::race(&target, &provider, &mut page, &gateway, watched_max).await?;
    // It answers others as it usually does.
    provider.script(&json!({})).await?;

    page.print(format).map_err(|error| error.to_string())?;
    Ok(page.held())
}

fn address(flag: &str, url: &str) -> Result<Address, Failure> {
    Address::parse(url).map_err(|why| format!("--{flag} `{url}` cannot be used: {why}.").into())
}

/// Its books stand beside its `/v1`.
fn address_of_simulator(url: &str) -> Result<Client, Failure> {
    let root = url.trim_end_matches('/');
    let root = root.strip_suffix("/v1").unwrap_or(root);
    Ok(Client::new(address("simulator", root)?, Secret::new("none")))
}

fn read_dollars(text: &str) -> Result<Money, Failure> {
    let plain = text.trim().trim_start_matches('$');
    let plain = plain.strip_suffix("usd").unwrap_or(plain);
    let amount = Money::parse(plain).filter(|amount| *amount > Money::ZERO);
    amount.ok_or_else(|| format!("`{text}` is not an amount of dollars such as 1 or 0.50").into())
}
