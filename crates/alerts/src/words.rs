//! What people read of a notification. Programs get its data as it is.

use serde_json::Value;
use tollgate_core::{Money, Timestamp};

pub(crate) struct Words {
    pub(crate) subject: String,
    pub(crate) sentence: String,
    /// One for each of many.
    pub(crate) lines: Vec<String>,
    /// What follows from it, or not.
    pub(crate) after: &'static str,
}

pub(crate) fn of(event: &str, data: &Value) -> Words {
    match event {
        "spend_limit.reached" => spend_limit(data),
        "api_key.expiring" => expiring(data),
        "api_key.unused" => unused(data),
        "upstream.down" | "upstream.recovered" => upstream(event, data),
        _ => spend_alert(data),
    }
}

fn word<'d>(data: &'d Value, name: &str) -> &'d str {
    data[name].as_str().unwrap_or_default()
}

/// As much of a moment as is wanted: ten letters for the day, seven for the month, none for all.
fn time(data: &Value, name: &str, letters: usize) -> String {
    let at = data[name].as_i64().map(|at| Timestamp(at).to_string()).unwrap_or_default();
    if letters == 0 { at } else { at.chars().take(letters).collect() }
}

fn dollars(data: &Value, name: &str) -> String {
    Money::parse(word(data, name)).map(Money::dollars).unwrap_or_default()
}

fn cents(data: &Value, name: &str) -> String {
    data[name].as_i64().and_then(Money::from_cents).map(Money::dollars).unwrap_or_default()
}

fn spend_alert(data: &Value) -> Words {
    let organization = word(data, "organization_name");
    let whose = match data["project_name"].as_str() {
        Some(project) => format!("The project {project} of {organization}"),
        None => format!("The organization {organization}"),
    };
    let name = data["project_name"].as_str().unwrap_or(organization);
    let threshold = cents(data, "threshold_amount");
    Words {
        subject: format!("{name} has spent {threshold} in {}", time(data, "period_start", 7)),
        sentence: format!(
            "{whose} has spent {} in the month from {} to {}, and {threshold} is what you wanted to be told at.",
            dollars(data, "spent"),
            time(data, "period_start", 10),
            time(data, "period_end", 10)
        ),
        lines: Vec::new(),
        after: "Nothing is stopped by this: it is an alert, and not a limit.",
    }
}

fn spend_limit(data: &Value) -> Words {
    let name = word(data, "scope_name");
    let whose = format!("{} {name}", word(data, "scope").replace('_', " "));
    Words {
        subject: format!("{name} has reached its spend limit of {}", dollars(data, "amount")),
        sentence: format!(
            "The spend limit of {} a {} of the {whose} is reached: {} is spent, and what does not fit is refused.",
            dollars(data, "amount"),
            word(data, "interval"),
            dollars(data, "spent")
        ),
        lines: Vec::new(),
        after: "It can be raised; otherwise requests go on when its next period begins.",
    }
}

fn keys(data: &Value, when: &str) -> Vec<String> {
    let mut lines: Vec<String> = data["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|key| {
            let at = match key[when].as_i64() {
                Some(at) => Timestamp(at).to_string(),
                None => "never".to_owned(),
            };
            let whose = key["project_name"].as_str().map(|name| format!(" of {name}")).unwrap_or_default();
            format!("- {} ({}){whose}: {at}", word(key, "name"), word(key, "id"))
        })
        .collect();
    let more = data["count"].as_u64().unwrap_or(0).saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more."));
    }
    lines
}

fn number_of_keys(data: &Value) -> String {
    match data["count"].as_u64() {
        Some(1) => "One API key".to_owned(),
        count => format!("{} API keys", count.unwrap_or(0)),
    }
}

fn expiring(data: &Value) -> Words {
    let (count, organization) = (number_of_keys(data), word(data, "organization_name"));
    let is_one = data["count"].as_u64() == Some(1);
    let verb = match (data["days"].as_i64(), is_one) {
        (Some(0), true) => "has expired".to_owned(),
        (Some(0), false) => "have expired".to_owned(),
        (days, true) => format!("expires within {} days", days.unwrap_or(0)),
        (days, false) => format!("expire within {} days", days.unwrap_or(0)),
    };
    Words {
        subject: format!("{count} of {organization} {verb}"),
        sentence: format!("{count} of {organization} {verb}:"),
        lines: keys(data, "expires_at"),
        after: "A key that has expired opens nothing any more, and cannot be made to.",
    }
}

fn unused(data: &Value) -> Words {
    let (count, organization) = (number_of_keys(data), word(data, "organization_name"));
    let days = data["days"].as_i64().unwrap_or(0);
    let was = if data["count"].as_u64() == Some(1) { "was" } else { "were" };
    Words {
        subject: format!("{count} of {organization} {was} not used for {days} days"),
        sentence: format!("{count} of {organization} {was} not used for {days} days. Last use:"),
        lines: keys(data, "last_used_at"),
        after: "What nobody uses can be revoked: then nobody else can use it either.",
    }
}

fn upstream(event: &str, data: &Value) -> Words {
    let name = word(data, "name");
    let is_down = event == "upstream.down";
    let state = if is_down { "cannot be used" } else { "can be used again" };
    let when = if is_down { "since" } else { "at" };
    let at = time(data, if is_down { "since" } else { "recovered_at" }, 0);
    Words {
        subject: format!("The upstream {name} {state}"),
        sentence: format!("The upstream {name} {state} {when} {at}."),
        lines: Vec::new(),
        after: if is_down {
            "Its models are served by others where there are any. It is tried again as long as it is asked for."
        } else {
            "A request has succeeded there."
        },
    }
}
