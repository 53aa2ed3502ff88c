//! How values are written: money, times, counts, and what operations answer.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_core::{Money, Timestamp};

/// A text of an answer; nothing where it is null. That it is there at all is checked where tests run.
pub(crate) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    debug_assert!(value.get(name).is_some(), "there is no `{name}` in {value}");
    value[name].as_str().unwrap_or("")
}

pub(crate) fn number(value: &Value, name: &str) -> Option<i64> {
    debug_assert!(value.get(name).is_some(), "there is no `{name}` in {value}");
    value[name].as_i64()
}

pub(crate) fn flag(value: &Value, name: &str) -> bool {
    debug_assert!(value.get(name).is_some(), "there is no `{name}` in {value}");
    value[name].as_bool().unwrap_or(false)
}

/// The items of a list.
pub(crate) fn items(value: &Value) -> &[Value] {
    value["data"].as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Money as operations write it: a text of dollars, or a JSON number.
pub(crate) fn money(value: &Value) -> Money {
    let parsed = match value {
        Value::String(text) => Money::parse(text),
        Value::Number(number) => Money::parse(&number.to_string()),
        _ => None,
    };
    parsed.unwrap_or(Money::ZERO)
}

/// Dollars for people: cents, and more digits only where cents would say nothing.
pub(crate) fn dollars(money: Money) -> String {
    const CENT: i64 = 10_000_000;
    let nanos = money.nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let size = nanos.unsigned_abs();
    if nanos == 0 || size >= CENT.unsigned_abs() {
        // Rounded to whole cents, half up.
        let cents = (size + 5_000_000) / 10_000_000;
        return format!("{sign}${}.{:02}", thousands(cents / 100), cents % 100);
    }
    let text = format!("{size:09}");
    format!("{sign}$0.{}", text.trim_end_matches('0'))
}

pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(crate) fn count(value: &Value) -> String {
    thousands(value.as_u64().unwrap_or(0))
}

/// The exact amount stands in the title, for whoever wants it.
pub(crate) fn amount(money: Money) -> Markup {
    html! { span.money title=(format!("${money}")) { (dollars(money)) } }
}

/// A time in UTC; the script shows it in the zone of whoever looks.
pub(crate) fn time(at: Option<i64>) -> Markup {
    let Some(at) = at else { return html! { span.none { "–" } } };
    let text = Timestamp(at).to_string();
    html! { time datetime=(text) title=(text) { (minutes(&text)) } }
}

/// `2026-11-26T07:05:09Z` without its seconds.
fn minutes(text: &str) -> String {
    let shown = text.get(..16).unwrap_or(text).replace('T', " ");
    format!("{shown} UTC")
}

pub(crate) fn day(at: i64) -> String {
    Timestamp(at).to_string().get(..10).unwrap_or("").to_owned()
}

/// Milliseconds, in whole ones or in seconds with one digit more.
pub(crate) fn duration(millis: i64) -> String {
    match millis {
        ..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        _ => span(millis / 1_000),
    }
}

/// How long ago, or until when, in the largest unit that fits.
pub(crate) fn span(seconds: i64) -> String {
    let size = seconds.abs();
    let (number, unit) = match size {
        0..60 => (size, "second"),
        60..3_600 => (size / 60, "minute"),
        3_600..172_800 => (size / 3_600, "hour"),
        _ => (size / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// When something was last used, as people say it.
pub(crate) fn ago(at: Option<i64>, now: Timestamp) -> Markup {
    let Some(at) = at else { return html! { span.none { "never" } } };
    let text = Timestamp(at).to_string();
    html! { time datetime=(text) title=(text) { (span(now.0 - at)) " ago" } }
}

/// When something ends.
pub(crate) fn expiry(at: Option<i64>, now: Timestamp) -> Markup {
    let Some(at) = at else { return html! { span.none { "never" } } };
    let text = Timestamp(at).to_string();
    let left = at - now.0;
    html! {
        @if left <= 0 { span.badge.bad { "expired " (day(at)) } }
        @else if left <= 14 * 86_400 { span.badge.warn title=(text) { "in " (span(left)) } }
        @else { time datetime=(text) title=(text) { (day(at)) } }
    }
}

/// An id, in full, to be copied.
pub(crate) fn id(id: &str) -> Markup {
    html! { code.id { (id) } }
}

/// Labels as pairs.
pub(crate) fn labels(value: &Value) -> Markup {
    let pairs = value.as_object();
    html! {
        @for (name, value) in pairs.into_iter().flatten() {
            span.label { (name) "=" (value.as_str().unwrap_or("")) } " "
        }
    }
}

/// Labels as they are typed: `team=search, tier=gold`.
pub(crate) fn typed_labels(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or(""))).collect();
    pairs.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_for_people_and_never_as_nothing() {
        let shown = |text: &str| dollars(Money::parse(text).unwrap());
        assert_eq!(shown("0"), "$0.00");
        assert_eq!(shown("1234567.895"), "$1,234,567.90");
        assert_eq!(shown("0.000012"), "$0.000012");
        assert_eq!(shown("0.01"), "$0.01");
        assert_eq!(shown("0.009999999"), "$0.009999999");
    }

    #[test]
    fn a_duration_is_as_long_as_it_says() {
        assert_eq!(
            (duration(0), duration(999), duration(1_250)),
            ("0 ms".into(), "999 ms".into(), "1.2 s".into())
        );
        assert_eq!((duration(59_999), duration(120_000)), ("59.9 s".into(), "2 minutes".into()));
    }

    #[test]
    fn spans_of_time_are_in_one_unit() {
        assert_eq!(
            (span(1), span(59), span(61)),
            ("1 second".into(), "59 seconds".into(), "1 minute".into())
        );
        assert_eq!((span(-7_200), span(172_800)), ("2 hours".into(), "2 days".into()));
    }
}
