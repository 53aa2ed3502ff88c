//! Amounts and durations as people write them on a command line.

use tollgate_core::{Interval, Money, Timestamp};

/// `50`, `$50`, `0.05usd`: dollars to whole cents.
pub(crate) fn cents(text: &str) -> Result<i64, String> {
    let plain = text.trim().to_lowercase();
    let plain = plain.strip_suffix("usd").unwrap_or(&plain).trim().trim_start_matches('$');
    let amount = Money::parse(plain).ok_or_else(|| {
        let dollars_max = Money::MAX.cents() / 100;
        format!("`{text}` is not an amount of US dollars such as 50usd or 0.05, of at most {dollars_max}")
    })?;
    if amount <= Money::ZERO {
        return Err(format!("`{text}` is not more than nothing"));
    }
    match Money::from_cents(amount.cents()) {
        Some(whole) if whole == amount => Ok(amount.cents()),
        _ => Err(format!("`{text}` is not a whole number of cents")),
    }
}

/// `50usd/month`, `$2/day`; by the month unless it says otherwise.
pub(crate) fn limit(text: &str) -> Result<(i64, Interval), String> {
    let (amount, interval) = text.split_once('/').unwrap_or((text, "month"));
    let interval = Interval::parse(interval.trim())
        .ok_or_else(|| format!("`{text}` is not a limit by the month, week or day, such as 50usd/month"))?;
    Ok((cents(amount)?, interval))
}

/// `90d`, `12h`, `30m`, `45s`, or `never`.
pub(crate) fn seconds(text: &str) -> Result<Option<i64>, String> {
    if text == "never" {
        return Ok(None);
    }
    let wrong = || format!("`{text}` is not a time such as 90d, 12h, 30m, 45s or never");
    let unit_length = text.chars().last().map_or(0, char::len_utf8);
    let (digits, unit) = text.split_at(text.len() - unit_length);
    let unit = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    let count: i64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(unit).filter(|seconds| *seconds > 0).map(Some).ok_or_else(wrong)
}

/// When something begins or ends: so long before `now`, as `7d`, or a day of UTC, as `2026-11-01`.
pub(crate) fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(day) = Timestamp::of_day(text) {
        return Ok(day);
    }
    match seconds(text) {
        Ok(Some(seconds)) => Ok(Timestamp(now.plus_seconds(-seconds).0.max(0))),
        _ => Err(format!(
            "`{text}` is neither a time ago such as 90d, 12h, 30m or 45s, nor a day such as 2026-11-01"
        )),
    }
}

/// The same, or unix seconds.
pub(crate) fn moment_or_seconds(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    match text.parse::<i64>() {
        Ok(seconds) if seconds >= 0 => Ok(Timestamp(seconds)),
        _ => moment(text, now),
    }
}

/// A moment to come: in so much time, such as 30d; a day of UTC; or a moment such as `2027-01-01T09:30:00Z`.
pub(crate) fn moment_ahead(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(at) = Timestamp::of_day(text).or_else(|| Timestamp::of_text(text)) {
        return Ok(at);
    }
    match seconds(text) {
        Ok(Some(seconds)) => Ok(now.plus_seconds(seconds)),
        _ => Err(format!(
            "`{text}` is neither a day such as 2027-01-01, nor a time such as 2027-01-01T09:30:00Z, nor so long from \
             now, such as 30d or 12h"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_dollars_to_the_cent_by_an_interval() {
        use Interval::{Day, Month, Week};
        for (text, expected) in [
            ("50", (5000, Month)),
            ("$50", (5000, Month)),
            ("0.05usd", (5, Month)),
            ("50USD/month", (5000, Month)),
            (" 1.50 usd", (150, Month)),
            ("2usd/day", (200, Day)),
            ("$7.25 / week", (725, Week)),
        ] {
            assert_eq!(limit(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "0.001", "50eur", "50usd/year", "50usd/", "many"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_is_a_time_ago_or_a_day() {
        let now = Timestamp(1_795_392_000);
        assert_eq!(moment("1d", now), Ok(Timestamp(1_795_392_000 - 86_400)));
        assert_eq!(moment("2026-11-23", now), Ok(now));
        assert_eq!(moment_or_seconds("1700000000", now), Ok(Timestamp(1_700_000_000)));
        assert_eq!(moment_or_seconds("1d", now), moment("1d", now));
        assert!(moment_or_seconds("-5", now).is_err());
        for text in ["never", "2026-13-01", "2026-11-01T00:00:00Z", "yesterday", "", "0d"] {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("90d"), Ok(Some(7_776_000)));
        assert_eq!(seconds("45s"), Ok(Some(45)));
        assert_eq!(seconds("never"), Ok(None));
        for text in ["", "d", "90", "-1d", "0s", "1y", "9999999999999999d", "ü"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
