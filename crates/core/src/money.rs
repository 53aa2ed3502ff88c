//! Money in integers: amounts in nano-dollars, unit prices in pico-dollars, never floats.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use serde::{Serialize, Serializer};

/// An amount of US dollars in billionths. Range: about nine billion dollars either way; arithmetic saturates there,
/// which for a limit means "refuse" and for a charge "as much as can be said".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(pub i64);

impl Money {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(i64::MAX);

    /// OpenAI's thresholds come in cents.
    pub fn from_cents(cents: i64) -> Option<Self> {
        cents.checked_mul(10_000_000).map(Self)
    }

    /// Whole cents, what is beyond them cut off.
    pub fn cents(self) -> i64 {
        self.0 / 10_000_000
    }

    /// For people: `$0.05`, with more places only where there is something in them.
    pub fn dollars(self) -> String {
        struct Dollars(i64);
        impl fmt::Display for Dollars {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_decimal(f, self.0, 9, 2)
            }
        }
        format!("${}", Dollars(self.0))
    }

    /// Decimal dollars without needless zeros: `"0.01"`.
    pub fn short(self) -> String {
        struct Short(i64);
        impl fmt::Display for Short {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_decimal(f, self.0, 9, 0)
            }
        }
        Short(self.0).to_string()
    }

    pub fn nanos(self) -> i64 {
        self.0
    }

    /// Reads a decimal such as `"12.5"` with at most 9 places.
    pub fn parse(text: &str) -> Option<Self> {
        decimal(text, 9).map(Self)
    }

    /// What is left, if it is not less than nothing.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        let left = self.0.checked_sub(other.0)?;
        (left >= 0).then_some(Self(left))
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for Money {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// Dollars with exactly nine places: `"0.001234500"`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0, 9, 9)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The price of one token in trillionths of a dollar. One dollar per million tokens is `1_000_000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitPrice(pub i64);

impl UnitPrice {
    /// Reads dollars per million tokens, at most 6 places and not negative; what would be rounded is refused.
    pub fn parse_per_million(text: &str) -> Option<Self> {
        decimal(text, 6).filter(|pico| *pico >= 0).map(Self)
    }

    /// Dollars per million tokens without needless zeros: `"0.15"`.
    pub fn per_million(self) -> String {
        struct PerMillion(i64);
        impl fmt::Display for PerMillion {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_decimal(f, self.0, 6, 0)
            }
        }
        PerMillion(self.0).to_string()
    }

    /// The cost of `tokens`, rounded up to the nano-dollar.
    pub fn times(self, tokens: u64) -> Money {
        let pico = i128::from(self.0) * i128::from(tokens);
        let nano = pico.div_euclid(1000) + i128::from(pico.rem_euclid(1000) > 0);
        Money(i64::try_from(nano).unwrap_or(i64::MAX))
    }
}

/// Reads a plain decimal (`-12.5`) as an integer of `10^-places`; `None` if it is anything else or does not fit.
fn decimal(text: &str, places: usize) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || whole.len() > 19 {
        return None;
    }
    // Zeros at the end say nothing, however many there are.
    let fraction = match fraction.trim_end_matches('0') {
        "" => "0",
        digits if digits.len() <= places => digits,
        _ => return None,
    };
    let scale = 10i128.pow(u32::try_from(places).ok()?);
    let fraction_scale = 10i128.pow(u32::try_from(places - fraction.len()).ok()?);
    let value = whole.parse::<i128>().ok()? * scale + fraction.parse::<i128>().ok()? * fraction_scale;
    i64::try_from(if negative { -value } else { value }).ok()
}

fn write_decimal(f: &mut fmt::Formatter<'_>, value: i64, places: usize, places_min: usize) -> fmt::Result {
    let scale = 10u64.pow(u32::try_from(places).map_err(|_| fmt::Error)?);
    let (whole, mut fraction) = (value.unsigned_abs() / scale, value.unsigned_abs() % scale);
    let mut digits = [b'0'; 20];
    for digit in digits[..places].iter_mut().rev() {
        *digit = b"0123456789"[(fraction % 10) as usize];
        fraction /= 10;
    }
    let mut shown = places;
    while shown > places_min && digits[shown - 1] == b'0' {
        shown -= 1;
    }
    let fraction = std::str::from_utf8(&digits[..shown]).map_err(|_| fmt::Error)?;
    let (sign, point) = (if value < 0 { "-" } else { "" }, if shown == 0 { "" } else { "." });
    write!(f, "{sign}{whole}{point}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_are_read_exactly_or_refused() {
        assert_eq!(Money::parse("0.05"), Some(Money(50_000_000)));
        assert_eq!(Money::parse("-1"), Some(Money(-1_000_000_000)));
        assert_eq!(Money::parse("0.0000000001"), None, "more places than we keep");
        assert_eq!(Money::parse("0.1000000000000"), Some(Money(100_000_000)), "zeros at the end say nothing");
        for text in
            ["", ".", "1.", ".5", "1e3", "+1", " 1", "1,5", "NaN", "99999999999999999999", "--1", "1.-5"]
        {
            assert_eq!(Money::parse(text), None, "{text:?}");
        }
        assert_eq!(UnitPrice::parse_per_million("0.15"), Some(UnitPrice(150_000)));
        assert_eq!(UnitPrice::parse_per_million("-0.15"), None);
        assert_eq!(UnitPrice(150_000).per_million(), "0.15");
        assert_eq!(UnitPrice(0).per_million(), "0");
        assert_eq!(UnitPrice(2_000_000).per_million(), "2");
    }

    #[test]
    fn people_see_cents_and_more_only_where_there_is_more() {
        assert_eq!(Money(50_000_000).dollars(), "$0.05");
        assert_eq!(Money(1_000_000_000).dollars(), "$1.00");
        assert_eq!(Money(1).dollars(), "$0.000000001");
    }

    #[test]
    fn a_product_is_rounded_up() {
        assert_eq!(UnitPrice(1).times(1), Money(1));
        assert_eq!(UnitPrice(150_000).times(1_000_000), Money(150_000_000));
        assert_eq!(UnitPrice(i64::MAX).times(u64::MAX), Money::MAX);
        assert_eq!(UnitPrice(0).times(u64::MAX), Money::ZERO);
    }

    proptest! {
        #[test]
        fn money_survives_its_text(nanos: i64) {
            prop_assume!(nanos != i64::MIN);
            prop_assert_eq!(Money::parse(&Money(nanos).to_string()), Some(Money(nanos)));
        }

        #[test]
        fn a_price_survives_its_text(pico in 0..i64::MAX) {
            prop_assert_eq!(UnitPrice::parse_per_million(&UnitPrice(pico).per_million()), Some(UnitPrice(pico)));
        }

        #[test]
        fn splitting_tokens_never_makes_them_cheaper(pico in 0..1_000_000_000i64, a in 0..1_000_000u64, b in 0..1_000_000u64) {
            let price = UnitPrice(pico);
            prop_assert!(price.times(a) + price.times(b) >= price.times(a + b));
        }
    }
}
