//! Which price a request was charged at, so that every figure can be worked out again.

use std::fmt;

/// An operator's version, the embedded data that it leaves as it is, or both. Stored as one number: the version times a
/// hundred million, plus the day of the data as `YYYYMMDD`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PriceVersion(pub i64);

const DAYS: i64 = 100_000_000;

impl PriceVersion {
    /// Of what never had to be priced.
    pub const NONE: Self = Self(0);

    /// `own`: the number of an operator's version, from 1. `day`: of the embedded data, as `YYYYMMDD`, where it is used.
    pub const fn new(own: Option<i64>, day: Option<i64>) -> Self {
        let own = match own {
            Some(own) => own,
            None => 0,
        };
        let day = match day {
            Some(day) => day,
            None => 0,
        };
        Self(own.saturating_mul(DAYS).saturating_add(day))
    }
}

/// `price_12`, `embedded-2026-11-26`, or `price_12+embedded-2026-11-26`.
impl fmt::Display for PriceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, day) = (self.0 / DAYS, self.0 % DAYS);
        if own > 0 {
            write!(f, "price_{own}")?;
        }
        if own > 0 && day > 0 {
            f.write_str("+")?;
        }
        if day > 0 {
            write!(f, "embedded-{:04}-{:02}-{:02}", day / 10_000, day / 100 % 100, day % 100)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_says_where_its_figures_are_from() {
        let text = |own, day| PriceVersion::new(own, day).to_string();
        assert_eq!(text(Some(12), None), "price_12");
        assert_eq!(text(None, Some(20_261_126)), "embedded-2026-11-26");
        assert_eq!(text(Some(3), Some(20_270_105)), "price_3+embedded-2027-01-05");
        assert_eq!(PriceVersion::NONE.to_string(), "");
    }
}
