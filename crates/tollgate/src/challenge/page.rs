//! The one page.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_core::Money;

use super::books::{Gateway, Recorded, Total};
use crate::api::Format;
use crate::api::session::Failure;

/// Agents beside each other, who are never to be refused.
#[derive(Default)]
pub(crate) struct Agents {
    pub(crate) count: u64,
    pub(crate) bound: Money,
    pub(crate) served: u64,
    pub(crate) refused: u64,
    pub(crate) key_refused: u64,
    pub(crate) failed: u64,
}

#[derive(Default)]
pub(crate) struct Storm {
    pub(crate) requests: u32,
    pub(crate) concurrency: u16,
    /// Before it began.
    pub(crate) left: Money,
    /// What one request costs.
    pub(crate) bound: Money,
    pub(crate) served: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    /// By the provider.
    pub(crate) billed: Money,
}

#[derive(Default)]
pub(crate) struct Race {
    /// Begun after the gateway said that the key was gone.
    pub(crate) calls: u64,
    pub(crate) accepted: u64,
    pub(crate) lived: Duration,
}

pub(crate) struct Page {
    target: String,
    simulator: String,
    left: Money,
    pub(crate) streams: u16,
    pub(crate) agents: Agents,
    pub(crate) storm: Storm,
    provider: Total,
    recorded: Recorded,
    pub(crate) race: Option<Race>,
}

impl Page {
    pub(crate) fn new(target: &str, simulator: &str, left: Money) -> Self {
        Self {
            target: target.to_owned(),
            simulator: simulator.to_owned(),
            left,
            streams: 0,
            agents: Agents::default(),
            storm: Storm::default(),
            provider: Total::default(),
            recorded: Recorded::default(),
            race: None,
        }
    }

    /// Compares the gateway's records with the provider's. A gateway may be a little late with its own: it gets the time.
    pub(crate) async fn compare(
        &mut self,
        provider: &Total,
        before: Recorded,
        gateway: &Gateway,
    ) -> Result<(), Failure> {
        const TRIES: u32 = 20;
        const PAUSE: Duration = Duration::from_millis(500);
        self.provider = *provider;
        for _ in 0..TRIES {
            let now = gateway.recorded().await?;
            self.recorded = Recorded {
                requests: now.requests.zip(before.requests).map(|(now, before)| now.saturating_sub(before)),
                spent: now.spent.zip(before.spent).map(|(now, before)| now.saturating_sub(before)),
            };
            if self.unrecorded_requests() == Some(0) && self.unrecorded() == Some(Money::ZERO) {
                break;
            }
            if self.recorded.requests.is_none() && self.recorded.spent.is_none() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What the provider billed beyond what was left.
    fn overspend(&self) -> Money {
        Money::ZERO.max(self.provider.billed.saturating_sub(self.left))
    }

    /// Of the agents' requests: all fit. Of the storm's: those that the rest would still have paid for.
    fn false_refusals(&self) -> u64 {
        let storm = &self.storm;
        // By the gateway's own books, if it shows them: what it charged beyond the bill is told apart from this.
        let spent = self.recorded.spent.map_or(storm.billed, |spent| {
            spent.saturating_sub(self.provider.billed.saturating_sub(storm.billed))
        });
        let rest = storm.left.saturating_sub(spent).nanos() / storm.bound.nanos().max(1);
        self.agents.refused + u64::try_from(rest).unwrap_or(0).min(storm.refused)
    }

    fn could_be_refused_falsely(&self) -> u64 {
        self.agents.served + self.agents.refused + self.storm.served
    }

    fn unrecorded_requests(&self) -> Option<u64> {
        self.recorded.requests.map(|recorded| self.provider.requests.saturating_sub(recorded))
    }

    fn unrecorded(&self) -> Option<Money> {
        self.recorded.spent.map(|spent| Money::ZERO.max(self.provider.billed.saturating_sub(spent)))
    }

    /// What the gateway recorded beyond the bill.
    fn overcharge(&self) -> Option<Money> {
        self.recorded.spent.map(|spent| Money::ZERO.max(spent.saturating_sub(self.provider.billed)))
    }

    /// Whether nothing leaked. One in a thousand may be refused falsely.
    pub(crate) fn held(&self) -> bool {
        self.overspend() == Money::ZERO
            && self.false_refusals() * 1_000 <= self.could_be_refused_falsely()
            && self.unrecorded_requests().is_none_or(|count| count == 0)
            && self.unrecorded().is_none_or(|amount| amount == Money::ZERO)
            && self.race.as_ref().is_none_or(|race| race.accepted == 0)
    }

    pub(crate) fn print(&self, format: Format) -> std::io::Result<()> {
        let text = if format == Format::Json {
            serde_json::to_string_pretty(&self.as_json()).unwrap_or_default()
        } else {
            self.as_text()
        };
        writeln!(std::io::stdout(), "{text}")
    }

    fn as_json(&self) -> Value {
        json!({
            "target": self.target, "simulator": self.simulator, "limit": self.left,
            "held": self.held(),
            "overspend": self.overspend(),
            "false_refusals": self.false_refusals(),
            "unrecorded_requests": self.unrecorded_requests(),
            "unrecorded_cost": self.unrecorded(),
            "overcharge": self.overcharge(),
            "seconds_a_deleted_key_lived": self.race.as_ref().map(|race| seconds(race.lived)),
            "provider": {"requests": self.provider.requests, "billed": self.provider.billed},
            "gateway": {"requests": self.recorded.requests, "spent": self.recorded.spent},
            "streams": {"cut": self.streams},
            "agents": {
                "agents": self.agents.count, "bound": self.agents.bound, "served": self.agents.served,
                "refused": self.agents.refused, "failed": self.agents.failed,
            },
            "storm": {
                "requests": self.storm.requests, "concurrency": self.storm.concurrency, "left": self.storm.left,
                "bound": self.storm.bound, "served": self.storm.served, "refused": self.storm.refused,
                "failed": self.storm.failed, "billed": self.storm.billed,
            },
            "race": self.race.as_ref().map(|race| json!({
                "calls_after": race.calls, "accepted": race.accepted,
            })),
        })
    }

    fn as_text(&self) -> String {
        let mut text = format!(
            "Tollgate's challenge of {}\nbefore the simulated provider at {}, on a key with ${} left\n\n",
            self.target, self.simulator, self.left
        );
        let mut line = |what: &str, figure: &str, why: &str| {
            let _ = writeln!(text, "{what:<28}  {figure:<16}  {why}");
        };
        let unknown = || "not measured".to_owned();
        line(
            "overspend",
            &format!("${}", self.overspend()),
            &format!("the provider billed ${} of ${}", self.provider.billed, self.left),
        );
        line(
            "false refusals",
            &self.false_refusals().to_string(),
            &format!("of {} requests that there was money for", self.could_be_refused_falsely()),
        );
        line(
            "unrecorded requests",
            &self.unrecorded_requests().map_or_else(unknown, |count| count.to_string()),
            &match self.recorded.requests {
                Some(recorded) => {
                    format!("{recorded} recorded, {} served by the provider", self.provider.requests)
                }
                None => "the gateway's admin API says nothing of it".to_owned(),
            },
        );
        line(
            "unrecorded cost",
            &self.unrecorded().map_or_else(unknown, |amount| format!("${amount}")),
            &match self.recorded.spent {
                Some(spent) => format!("${spent} recorded, ${} billed by the provider", self.provider.billed),
                None => "see --admin-key-file and --spent-command".to_owned(),
            },
        );
        line(
            "charged but not billed",
            &self.overcharge().map_or_else(unknown, |amount| format!("${amount}")),
            "what was cut, at its bound",
        );
        line(
            "seconds a deleted key lived",
            &self.race.as_ref().map_or_else(unknown, |race| seconds(race.lived)),
            &match &self.race {
                Some(race) => format!("{} of {} later calls were accepted", race.accepted, race.calls),
                None => "see --admin-key-file and --revoke-command".to_owned(),
            },
        );
        text.push_str(&self.details());
        text.push_str(if self.held() { "\nIt held." } else { "\nIt did not hold." });
        text
    }

    fn details(&self) -> String {
        let (agents, storm) = (&self.agents, &self.storm);
        format!(
            "\ncut streams  {} (half left by the client, half cut by the provider)\n\
             agents       {} beside each other, each request bounded to ${}: {} served, {} refused, {} failed\n\
             storm        {} requests, {} at once, on ${}: {} served for ${}, {} refused, {} failed\n",
            self.streams,
            agents.count,
            agents.bound,
            agents.served,
            agents.refused,
            agents.failed,
            storm.requests,
            storm.concurrency,
            storm.left,
            storm.served,
            storm.billed,
            storm.refused,
            storm.failed,
        )
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}.{:03}", duration.as_secs(), duration.subsec_millis())
}
