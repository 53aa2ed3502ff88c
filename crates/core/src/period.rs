//! The spans of time over which spend limits count: calendar days, weeks and months in a time zone.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::time::Timestamp;

/// How long a spend limit counts before it begins anew. The order is that of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interval {
    Day,
    /// From Monday.
    Week,
    Month,
}

impl Interval {
    pub const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|interval| interval.as_str() == word)
    }
}

/// An IANA time zone, such as `Europe/Berlin`.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    pub const UTC: Self = Self(TimeZone::UTC);

    /// Finds a zone by its name; `None` for whatever is not in the IANA database.
    pub fn parse(name: &str) -> Option<Self> {
        let zone = TimeZone::get(name).ok()?;
        zone.iana_name().is_some().then_some(Self(zone))
    }

    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    pub fn is_utc(&self) -> bool {
        self.0 == TimeZone::UTC
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The half-open span `start..end` over which a spend limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period {
    pub start: Timestamp,
    pub end: Timestamp,
}

impl Period {
    /// The calendar day, week or month of a zone that holds `at`.
    pub fn of(interval: Interval, zone: &Zone, at: Timestamp) -> Self {
        let date = jiff::Timestamp::from_second(at.0)
            .map_or(Date::constant(1970, 1, 1), |time| time.to_zoned(zone.0.clone()).date());
        let first = match interval {
            Interval::Day => date,
            Interval::Week => {
                let days = i64::from(date.weekday().to_monday_zero_offset());
                date.checked_sub(jiff::Span::new().days(days)).unwrap_or(Date::MIN)
            }
            Interval::Month => date.first_of_month(),
        };
        let span = match interval {
            Interval::Day => jiff::Span::new().days(1),
            Interval::Week => jiff::Span::new().weeks(1),
            Interval::Month => jiff::Span::new().months(1),
        };
        let next = first.checked_add(span).unwrap_or(Date::MAX);
        Self { start: beginning(first, zone), end: beginning(next, zone) }
    }

    /// The calendar month in UTC that holds `at`: OpenAI's only interval.
    pub fn month_of(at: Timestamp) -> Self {
        Self::of(Interval::Month, &Zone::UTC, at)
    }

    pub fn contains(self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

/// The first moment of a date. Where clocks skip midnight, it is the first that they show.
fn beginning(date: Date, zone: &Zone) -> Timestamp {
    let start = date.to_zoned(zone.0.clone()).map_or(i64::MAX, |zoned| zoned.timestamp().as_second());
    Timestamp(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_second())
    }

    fn period(interval: Interval, zone: &str, moment: &str) -> String {
        let Period { start, end } = Period::of(interval, &Zone::parse(zone).unwrap(), at(moment));
        format!("{start} {end}")
    }

    #[test]
    fn a_month_runs_from_its_first_to_the_next_first() {
        let leap = period(Interval::Month, "UTC", "2024-02-29T00:00:00Z");
        assert_eq!(leap, "2024-02-01T00:00:00Z 2024-03-01T00:00:00Z");
        let december = Period::month_of(at("2026-12-31T23:59:59Z"));
        assert_eq!(december.end, at("2027-01-01T00:00:00Z"));
        assert_eq!(Period::month_of(december.end).start, december.end);
        let berlin = period(Interval::Month, "Europe/Berlin", "2026-10-31T23:30:00Z");
        assert_eq!(berlin, "2026-10-31T23:00:00Z 2026-11-30T23:00:00Z");
    }

    #[test]
    fn a_week_begins_on_monday_and_a_day_at_midnight_of_its_zone() {
        let week = period(Interval::Week, "UTC", "2026-11-24T12:00:00Z");
        assert_eq!(week, "2026-11-23T00:00:00Z 2026-11-30T00:00:00Z");
        let monday = period(Interval::Week, "UTC", "2026-11-23T00:00:00Z");
        assert_eq!(monday, week);
        let kathmandu = period(Interval::Day, "Asia/Kathmandu", "2026-11-24T18:14:59Z");
        assert_eq!(kathmandu, "2026-11-23T18:15:00Z 2026-11-24T18:15:00Z");
    }

    #[test]
    fn days_are_longer_or_shorter_when_clocks_change() {
        let length = |zone, moment| {
            let Period { start, end } = Period::of(Interval::Day, &Zone::parse(zone).unwrap(), at(moment));
            end.0 - start.0
        };
        assert_eq!(length("Europe/Berlin", "2026-03-29T12:00:00Z"), 23 * 3600);
        assert_eq!(length("Europe/Berlin", "2026-10-25T12:00:00Z"), 25 * 3600);
        // In Beirut clocks go from midnight to one: the day begins at one.
        let beirut = period(Interval::Day, "Asia/Beirut", "2026-03-29T12:00:00Z");
        assert_eq!(beirut, "2026-03-28T22:00:00Z 2026-03-29T21:00:00Z");
    }

    #[test]
    fn only_names_of_the_iana_database_are_zones() {
        assert_eq!(Zone::parse("europe/berlin").unwrap().name(), "Europe/Berlin");
        assert!(Zone::parse("UTC").unwrap().is_utc());
        for name in ["", "Mars/Olympus", "CET-1CEST", "+01:00", "local", "../../etc/passwd", "Europe"] {
            assert!(Zone::parse(name).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_is_in_its_period_and_periods_follow_each_other(
            seconds in 0..4_000_000_000i64, interval in 0..3usize, zone in 0..5usize,
        ) {
            let zones = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Beirut", "Pacific/Apia"];
            let (interval, zone) = (Interval::ALL[interval], Zone::parse(zones[zone]).unwrap());
            let period = Period::of(interval, &zone, Timestamp(seconds));
            prop_assert!(period.contains(Timestamp(seconds)));
            prop_assert_eq!(Period::of(interval, &zone, period.start), period);
            prop_assert_eq!(Period::of(interval, &zone, period.end).start, period.end);
        }
    }
}
