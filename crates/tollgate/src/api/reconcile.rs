//! `reconcile`: what the books say that an upstream was used for, beside what the upstream's own costs API says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tollgate_core::{Address, Clock, Money, Timestamp};

use crate::api::amount;
use crate::api::client::{CallError, Client, encoded};
use crate::api::secret_input;
use crate::api::session::{Failure, Session};
use crate::api::table;

#[derive(Args, Debug)]
pub struct ReconcileCommand {
    /// Id of the upstream
    #[arg(long, value_name = "ID")]
    upstream: String,
    /// File with a key that may read the provider's costs (an admin key at OpenAI), or - for stdin
    #[arg(long, value_name = "FILE")]
    costs_key_file: PathBuf,
    /// Where the provider's costs API is, ending in /v1 [default: the upstream's base URL]
    #[arg(long, value_name = "URL")]
    costs_url: Option<String>,
    /// Count only these projects of the provider's
    #[arg(long = "costs-project", value_name = "ID")]
    costs_projects: Vec<String>,
    /// How far back, in whole days of UTC
    #[arg(long, default_value = "7d", value_name = "TIME")]
    since: String,
    /// Today as well, which the provider may not have counted yet
    #[arg(long)]
    today: bool,
    /// So much drift of the total is well, in percent
    #[arg(long, default_value = "1", value_name = "PERCENT", value_parser = basis_points)]
    tolerance: i64,
}

/// Hundredths of a percent.
fn basis_points(text: &str) -> Result<i64, String> {
    let points = Money::parse(text).map(|percent| percent.nanos() / 10_000_000);
    points.filter(|points| (0..=10_000).contains(points)).ok_or_else(|| "expected 0 to 100".to_owned())
}

const DAY: i64 = 86_400;

/// Costs by day and model.
type Costs = BTreeMap<(i64, String), Money>;

impl Session {
    /// `false` if the total drifts by more than is well.
    pub async fn reconcile(&self, command: ReconcileCommand) -> Result<bool, Failure> {
        self.needs_tollgate("compare its books")?;
        let upstream = format!("/tollgate/v1/upstreams/{}", encoded(&command.upstream));
        let found = self.client.get(&upstream, &[]).await?;
        let url = match &command.costs_url {
            Some(url) => url.clone(),
            None => found["base_url"]
                .as_str()
                .ok_or("An operator's key is needed, or --costs-url.".to_owned())?
                .to_owned(),
        };
        let address =
            Address::parse(&url).map_err(|why| format!("--costs-url `{url}` cannot be used: {why}."))?;
        let provider = Client::new(address, secret_input::read(&command.costs_key_file)?);
        let seconds = amount::seconds(&command.since)?.ok_or("`never` is no span of time.".to_owned())?;
        let now = Clock::system().now().0;
        let today = now - now.rem_euclid(DAY);
        let start = now - seconds - (now - seconds).rem_euclid(DAY);
        let end = if command.today { today + DAY } else { today };
        if start >= end {
            return Err("No whole day has passed since then; see --today.".to_owned().into());
        }
        let span =
            [("start_time", start.to_string()), ("end_time", end.to_string()), ("limit", "31".to_owned())];

        let mut ours = Costs::new();
        buckets(&self.client, &format!("{upstream}/costs"), &span, |day, result| {
            add(&mut ours, day, result["model"].as_str().unwrap_or_default(), money(&result["cost"])?);
            Ok(())
        })
        .await?;
        let mut theirs = Costs::new();
        let mut query = span.to_vec();
        query.push(("bucket_width", "1d".to_owned()));
        query.push(("group_by", "line_item".to_owned()));
        query.extend(command.costs_projects.iter().map(|id| ("project_ids", id.clone())));
        let of_provider = |error| match error {
            Failure::Call(CallError::Refused { status, error, request_id }) => {
                let why = error["message"].as_str().unwrap_or("it does not say why");
                let message = format!(
                    "{url} gives no costs to compare with: {why} They are read from URL/organization/costs, as OpenAI has \
                     them, with an admin key; --costs-url names another place."
                );
                Failure::Call(CallError::Refused { status, error: json!({"message": message}), request_id })
            }
            other => other,
        };
        buckets(&provider, "/organization/costs", &query, |day, result| {
            let item = result["line_item"].as_str().unwrap_or_default();
            let model = item.split_once(',').map_or(item, |(model, _)| model);
            add(&mut theirs, day, model, money(&result["amount"]["value"])?);
            Ok(())
        })
        .await
        .map_err(of_provider)?;
        if ours.is_empty() && theirs.is_empty() {
            self.say("Nothing was spent in these days, by either account. Today is left out; see --today.");
        }
        self.show_drift(&ours, &theirs, command.tolerance)
    }

    fn show_drift(&self, ours: &Costs, theirs: &Costs, tolerance: i64) -> Result<bool, Failure> {
        let mut places: Vec<_> = ours.keys().chain(theirs.keys()).collect();
        places.sort_unstable();
        places.dedup();
        let of = |costs: &Costs, place| costs.get(place).copied().unwrap_or_default();
        let mut rows: Vec<Value> = places
            .iter()
            .map(|place| row(Some(place.0), &place.1, of(ours, *place), of(theirs, *place)))
            .collect();
        let (our_total, their_total) = (ours.values().copied().sum(), theirs.values().copied().sum());
        let total = row(None, "total", our_total, their_total);
        let is_well = drift_points(our_total, their_total).is_some_and(|points| points.abs() <= tolerance);
        if self.view.format.is_for_programs() {
            self.show(&[], &json!({"data": rows, "total": total, "within_tolerance": is_well}))?;
        } else {
            rows.push(total);
            self.show(table::DRIFT, &Value::Array(rows))?;
        }
        if !is_well {
            self.say("The books and the provider differ by more than the tolerance.");
        }
        Ok(is_well)
    }
}

fn row(day: Option<i64>, model: &str, ours: Money, theirs: Money) -> Value {
    let points = drift_points(ours, theirs);
    let percent = points.map(|points| {
        let sign = if points < 0 { "-" } else { "" };
        format!("{sign}{}.{:02}", points.abs() / 100, points.abs() % 100)
    });
    json!({
        "start_time": day.map(Timestamp), "model": model, "ours": ours, "theirs": theirs,
        "drift": ours.saturating_sub(theirs), "drift_percent": percent,
    })
}

/// By how many hundredths of a percent the books are above the provider; `None` if it counted nothing and they something.
fn drift_points(ours: Money, theirs: Money) -> Option<i64> {
    let (ours, theirs) = (i128::from(ours.nanos()), i128::from(theirs.nanos()));
    if ours == theirs {
        return Some(0);
    }
    if theirs == 0 {
        return None;
    }
    i64::try_from((ours - theirs) * 10_000 / theirs).ok()
}

/// Costs of a dated model count for the model: `gpt-4o-mini-2024-07-18` is `gpt-4o-mini`.
fn undated(model: &str) -> &str {
    const DATE: usize = "-2024-07-18".len();
    let Some((name, date)) = model.len().checked_sub(DATE).and_then(|at| model.split_at_checked(at)) else {
        return model;
    };
    let is_date = date.bytes().enumerate().all(|(at, byte)| match at {
        0 | 5 | 8 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    if is_date && !name.is_empty() { name } else { model }
}

fn add(costs: &mut Costs, day: i64, model: &str, cost: Money) {
    *costs.entry((day, undated(model.trim()).to_owned())).or_default() += cost;
}

/// Dollars as a number or as a text, of which the first nine places count.
fn money(value: &Value) -> Result<Money, Failure> {
    let rounded = |dollars: f64| dollars.is_finite().then(|| format!("{dollars:.9}"));
    let text = match value {
        Value::String(text) => match text.split_once('.') {
            Some((whole, places)) if places.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(format!("{whole}.{}", places.get(..9).unwrap_or(places)))
            }
            Some(_) => text.parse().ok().and_then(rounded),
            None => Money::parse(text).map(|_| text.clone()).or_else(|| text.parse().ok().and_then(rounded)),
        },
        other => other.as_f64().and_then(rounded),
    };
    let read = text.as_deref().and_then(Money::parse);
    read.ok_or_else(|| format!("`{value}` is not an amount of dollars: the costs cannot be compared.").into())
}

/// All pages of buckets by the day.
async fn buckets(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    mut each: impl FnMut(i64, &Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut page: Option<String> = None;
    loop {
        let mut query = query.to_vec();
        query.extend(page.take().map(|page| ("page", page)));
        let answer = client.get(path, &query).await?;
        for bucket in answer["data"].as_array().into_iter().flatten() {
            let day = bucket["start_time"].as_i64().unwrap_or_default();
            for result in bucket["results"].as_array().into_iter().flatten() {
                each(day, result)?;
            }
        }
        page = answer["next_page"].as_str().map(str::to_owned);
        if page.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_model_is_the_model() {
        for (dated, plain) in [
            ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
            ("gpt-4o", "gpt-4o"),
            ("-2024-07-18", "-2024-07-18"),
            ("gpt-4-0125-preview-x", "gpt-4-0125-preview-x"),
            ("modèle-2024-07-18", "modèle"),
        ] {
            assert_eq!(undated(dated), plain);
        }
    }

    #[test]
    fn drift_is_counted_in_hundredths_of_a_percent() {
        assert_eq!(drift_points(Money(101), Money(100)), Some(100));
        assert_eq!(drift_points(Money(0), Money(0)), Some(0));
        assert_eq!(drift_points(Money(1), Money(0)), None);
        assert_eq!(drift_points(Money(0), Money(7)), Some(-10_000));
        assert_eq!(basis_points("0.5"), Ok(50));
        assert!(basis_points("101").is_err() && basis_points("-1").is_err() && basis_points("x").is_err());
    }

    #[test]
    fn amounts_come_as_numbers_and_as_texts() {
        assert_eq!(money(&json!(0.000_012)).unwrap(), Money(12_000));
        assert_eq!(money(&json!("1.5")).unwrap(), Money(1_500_000_000));
        assert_eq!(money(&json!(1.2e-5)).unwrap(), Money(12_000));
        assert_eq!(money(&json!("0.13080438340307526")).unwrap(), Money(130_804_383));
        assert_eq!(money(&json!("1.2e-5")).unwrap(), Money(12_000));
        assert_eq!(money(&json!("3")).unwrap(), Money(3_000_000_000));
        for wrong in [json!("many"), json!("1.x"), json!(null), json!("nan"), json!("1e300")] {
            assert!(money(&wrong).is_err(), "{wrong}");
        }
    }
}
