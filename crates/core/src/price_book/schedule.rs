//! Prices by the time from which they hold.

use super::{Embedded, Figures, embedded};
use crate::price::{Price, PriceVersion};
use crate::time::Timestamp;

/// A version of a model's prices as an operator set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPrice {
    /// Its number, from 1 on; never used again.
    pub version: i64,
    pub from: Timestamp,
    /// `None`: until further notice.
    pub until: Option<Timestamp>,
    /// Until when it was to hold when it was set; others may have ended it before.
    pub asked_until: Option<Timestamp>,
    pub figures: Figures,
}

impl OwnPrice {
    /// Whether it was taken back before its time: it keeps its number, and prices nothing.
    pub fn is_withdrawn(&self) -> bool {
        self.asked_until == Some(self.from)
    }

    fn withdraw(&mut self) {
        (self.until, self.asked_until) = (Some(self.from), Some(self.from));
    }

    pub fn is_in_force(&self, at: Timestamp) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }
}

/// The versions of one model, in the order of time: no two hold at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(pub Vec<OwnPrice>);

impl Versions {
    pub fn in_force(&self, at: Timestamp) -> Option<&OwnPrice> {
        self.0.iter().find(|price| price.is_in_force(at))
    }

    /// Adds a version that holds from a moment on, which is not before `now`. What held then ends; it goes on after
    /// `until`. Without an end it holds until the next version that is there begins.
    ///
    /// `Err` is the version that would hold at the same time, and when it begins.
    pub fn set(&mut self, new: OwnPrice, now: Timestamp, next: &mut i64) -> Result<(), (i64, Timestamp)> {
        // What began in this very second has priced what it has; from here on the new one does.
        let is_later = |price: &&OwnPrice| {
            price.until != Some(price.from)
                && (price.from > new.from || price.from == new.from && new.from > now)
        };
        let later = self.0.iter().filter(is_later).min_by_key(|price| price.from).copied();
        if let Some(later) = later
            && (later.from == new.from || new.until.is_some_and(|until| until > later.from))
        {
            return Err((later.version, later.from));
        }
        let until = new.until.or(later.map(|later| later.from));
        let before = self.0.iter_mut().find(|price| price.is_in_force(new.from));
        let goes_on = before.and_then(|before| {
            let whole = *before;
            before.until = Some(new.from);
            let rest = until.filter(|until| whole.until.is_none_or(|end| end > *until))?;
            Some(OwnPrice { from: rest, ..whole })
        });
        self.0.push(OwnPrice { until, ..new });
        if let Some(rest) = goes_on {
            self.0.push(OwnPrice { version: *next, ..rest });
            *next += 1;
        }
        self.0.sort_by_key(|price| (price.from, price.version));
        Ok(())
    }

    /// Ends a version now, or withdraws it if its time has not come; what it had ended then goes on in its place, as one
    /// with what was to go on after it. `false` if it has ended before.
    pub fn end(&mut self, version: i64, now: Timestamp, next: &mut i64) -> bool {
        let Some(at) = self.0.iter().position(|price| price.version == version) else { return false };
        let price = self.0[at];
        if price.until.is_some_and(|until| until <= now) || price.is_withdrawn() {
            return false;
        }
        // What was to end then ends.
        let was_cut = |other: &OwnPrice| {
            other.from <= price.from
                && other.version != price.version
                && other.until == Some(price.from)
                && other.asked_until != Some(price.from)
        };
        let before = self.0.iter().position(was_cut);
        let until = before.and_then(|before| {
            let OwnPrice { figures, asked_until, .. } = self.0[before];
            let is_rest = |other: &&mut OwnPrice| {
                Some(other.from) == price.until
                    && !other.is_withdrawn()
                    && (other.figures, other.asked_until) == (figures, asked_until)
            };
            // Left where it is, it would end whatever is set in the meantime.
            match self.0.iter_mut().find(is_rest) {
                Some(rest) => {
                    let until = rest.until;
                    rest.withdraw();
                    until
                }
                None => [price.until, asked_until].into_iter().flatten().min(),
            }
        });
        if price.from > now {
            self.0[at].withdraw();
            if let Some(before) = before {
                self.0[before].until = until;
            }
            return true;
        }
        self.0[at].until = Some(now);
        if let Some(before) = before
            && until.is_none_or(|until| until > now)
        {
            self.0.push(OwnPrice { version: *next, from: now, until, ..self.0[before] });
            *next += 1;
            self.0.sort_by_key(|price| (price.from, price.version));
        }
        true
    }

    /// Ends what is in force now, and nothing goes on in its place before what is planned begins.
    pub fn end_current(&mut self, now: Timestamp) {
        if let Some(price) = self.0.iter_mut().find(|price| price.is_in_force(now)) {
            price.until = Some(now);
        }
    }

    /// Ends what is in force, and withdraws all that is planned.
    pub fn end_all(&mut self, now: Timestamp) {
        self.end_current(now);
        self.0.iter_mut().filter(|price| price.from > now).for_each(OwnPrice::withdraw);
    }
}

/// The figures of a model that are in force at a moment, and which version they are.
pub fn in_force(model: &str, own: &[OwnPrice], at: Timestamp) -> (PriceVersion, Figures) {
    of(&embedded(model), own, at)
}

fn of(known: &Embedded, own: &[OwnPrice], at: Timestamp) -> (PriceVersion, Figures) {
    let known = known.at(at);
    let day = embedded::day();
    match own.iter().find(|price| price.is_in_force(at)) {
        None => (PriceVersion::new(None, Some(day)), known),
        Some(price) => {
            let figures = price.figures.over(known);
            let is_all_own = figures == price.figures;
            (PriceVersion::new(Some(price.version), (!is_all_own).then_some(day)), figures)
        }
    }
}

/// All prices of a model, past and to come: what it costs at any moment is looked up and not worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// In the order of time; the first is from the beginning.
    prices: Vec<(Timestamp, Option<Price>)>,
}

impl Schedule {
    pub fn new(model: &str, own: &[OwnPrice]) -> Self {
        let known = embedded(model);
        let starts = known.figures.iter().map(|(from, _)| *from);
        let own_starts = own.iter().flat_map(|price| [Some(price.from), price.until]).flatten();
        let mut moments: Vec<Timestamp> = starts.chain(own_starts).chain([Timestamp(i64::MIN)]).collect();
        moments.sort_unstable();
        moments.dedup();
        let price = |at: Timestamp| {
            let (version, figures) = of(&known, own, at);
            figures.price(version)
        };
        Self { prices: moments.into_iter().map(|at| (at, price(at))).collect() }
    }

    /// `None`: unpriced. Requests are then recorded with their usage, and refused under a hard limit.
    pub fn at(&self, at: Timestamp) -> Option<Price> {
        self.prices.iter().rev().find(|(from, _)| *from <= at).and_then(|(_, price)| *price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::UnitPrice;

    fn own(version: i64, from: i64, until: Option<i64>, input: i64) -> OwnPrice {
        let figures = Figures {
            input_price: Some(UnitPrice(input)),
            output_price: Some(UnitPrice(0)),
            ..Figures::default()
        };
        let until = until.map(Timestamp);
        OwnPrice { version, from: Timestamp(from), until, asked_until: until, figures }
    }

    #[test]
    fn each_moment_has_the_price_of_its_version() {
        let versions = [own(1, 1_000, Some(2_000), 10), own(2, 3_000, None, 20)];
        let schedule = Schedule::new("gpt-4o-mini", &versions);
        let input = |at| {
            let price = schedule.at(Timestamp(at)).unwrap();
            (price.rates.input.0, price.version.to_string())
        };
        let (_, known) = in_force("gpt-4o-mini", &[], Timestamp(0));
        let embedded =
            (known.input_price.unwrap().0, PriceVersion::new(None, Some(embedded::day())).to_string());
        for (at, expected) in [
            (0, embedded.clone()),
            (999, embedded.clone()),
            (1_000, (10, "price_1".to_owned())),
            (1_999, (10, "price_1".to_owned())),
            (2_000, embedded.clone()),
            (3_000, (20, "price_2".to_owned())),
            (i64::MAX, (20, "price_2".to_owned())),
        ] {
            assert_eq!(input(at), expected, "{at}");
        }
        let unknown = Schedule::new("llama", &versions);
        assert_eq!(unknown.at(Timestamp(2_500)), None);
        assert_eq!(unknown.at(Timestamp(1_500)).unwrap().rates.input, UnitPrice(10));
    }

    #[test]
    fn a_version_that_leaves_figures_as_they_are_says_so() {
        let cached = Figures { cached_input_price: Some(UnitPrice(1)), ..Figures::default() };
        let price =
            OwnPrice { version: 7, from: Timestamp(0), until: None, asked_until: None, figures: cached };
        let (version, figures) = in_force("gpt-5.4", &[price], Timestamp(5));
        assert!(version.to_string().starts_with("price_7+embedded-"), "{version}");
        assert_eq!(figures.cached_input_price, Some(UnitPrice(1)));
        assert_eq!(figures.input_price, in_force("gpt-5.4", &[], Timestamp(5)).1.input_price);
        assert!(figures.long_context_above.is_some());
    }

    fn times(versions: &Versions) -> Vec<(i64, i64, Option<i64>)> {
        let time = |price: &OwnPrice| (price.version, price.from.0, price.until.map(|until| until.0));
        versions.0.iter().map(time).collect()
    }

    #[test]
    fn a_new_version_ends_the_one_before_it() {
        let now = Timestamp(1_000);
        let mut versions = Versions::default();
        let mut next = 10;
        versions.set(own(1, 1_000, None, 1), now, &mut next).unwrap();
        versions.set(own(2, 5_000, None, 2), now, &mut next).unwrap();
        assert_eq!(times(&versions), [(1, 1_000, Some(5_000)), (2, 5_000, None)]);
        // For a time only: what held before holds again.
        versions.set(own(3, 2_000, Some(3_000), 3), now, &mut next).unwrap();
        assert_eq!(
            times(&versions),
            [(1, 1_000, Some(2_000)), (3, 2_000, Some(3_000)), (10, 3_000, Some(5_000)), (2, 5_000, None)]
        );
        assert_eq!((versions.0[2].figures, next), (versions.0[0].figures, 11));
        // From now on, until what is planned begins.
        versions.set(own(4, 1_000, None, 4), now, &mut next).unwrap();
        assert_eq!(
            times(&versions)[..3],
            [(1, 1_000, Some(1_000)), (4, 1_000, Some(2_000)), (3, 2_000, Some(3_000))]
        );
        assert_eq!(versions.in_force(now).unwrap().version, 4);
        for (from, until) in [(1_500, Some(2_500)), (2_000, None), (3_000, Some(3_500)), (4_000, Some(9_000))]
        {
            assert!(versions.set(own(5, from, until, 5), now, &mut next).is_err(), "{from} {until:?}");
        }
    }

    #[test]
    fn what_has_not_begun_is_withdrawn_and_what_has_is_ended() {
        let now = Timestamp(1_000);
        let mut versions = Versions(vec![own(1, 500, None, 1)]);
        versions.set(own(2, 2_000, None, 2), now, &mut 9).unwrap();
        assert_eq!(times(&versions), [(1, 500, Some(2_000)), (2, 2_000, None)]);
        assert!(versions.end(2, now, &mut 9));
        assert_eq!(times(&versions), [(1, 500, None), (2, 2_000, Some(2_000))]);
        assert!(versions.0[1].is_withdrawn() && !versions.end(2, now, &mut 9));
        assert!(versions.end(1, now, &mut 9));
        assert_eq!(times(&versions)[0], (1, 500, Some(1_000)));
        assert!(!versions.end(1, now, &mut 9) && !versions.end(7, now, &mut 9));
        // What was to end by itself does.
        let mut limited = Versions(vec![own(1, 500, Some(2_000), 1)]);
        limited.set(own(2, 2_000, None, 2), now, &mut 9).unwrap();
        assert!(limited.end(2, now, &mut 9));
        assert_eq!(times(&limited)[0], (1, 500, Some(2_000)));
        let mut cut = Versions(vec![own(1, 500, Some(5_000), 1)]);
        cut.set(own(2, 2_000, None, 2), now, &mut 9).unwrap();
        assert_eq!(times(&cut), [(1, 500, Some(2_000)), (2, 2_000, None)]);
        assert!(cut.end(2, now, &mut 9));
        assert_eq!(times(&cut)[0], (1, 500, Some(5_000)));
    }

    #[test]
    fn what_was_to_go_on_after_a_temporary_price_does_not_end_what_is_set_in_its_place() {
        let (now, mut next) = (Timestamp(1_000), 9);
        let mut versions = Versions(vec![own(1, 500, None, 1)]);
        versions.set(own(2, 2_000, Some(5_000), 2), now, &mut next).unwrap();
        assert_eq!(times(&versions), [(1, 500, Some(2_000)), (2, 2_000, Some(5_000)), (9, 5_000, None)]);
        assert!(versions.end(2, now, &mut next));
        assert_eq!(times(&versions), [(1, 500, None), (2, 2_000, Some(2_000)), (9, 5_000, Some(5_000))]);
        assert!(versions.0[1].is_withdrawn() && versions.0[2].is_withdrawn());
        // Until what comes after it, if something does.
        versions.set(own(3, 2_000, Some(5_000), 3), now, &mut next).unwrap();
        versions.set(own(4, 6_000, None, 4), now, &mut next).unwrap();
        assert!(versions.end(3, now, &mut next));
        assert_eq!(times(&versions)[0], (1, 500, Some(6_000)));
        versions.set(own(5, 1_000, None, 5), now, &mut next).unwrap();
        let input = |at| versions.in_force(Timestamp(at)).unwrap().version;
        assert_eq!([1_000, 2_000, 5_000, 6_000].map(input), [5, 5, 5, 4]);
    }

    #[test]
    fn where_a_temporary_price_is_ended_early_what_was_before_goes_on_at_once() {
        let (start, mut next) = (Timestamp(1_000), 9);
        let mut versions = Versions(vec![own(1, 500, None, 1)]);
        versions.set(own(2, 1_000, Some(5_000), 2), start, &mut next).unwrap();
        assert_eq!(times(&versions), [(1, 500, Some(1_000)), (2, 1_000, Some(5_000)), (9, 5_000, None)]);
        assert!(versions.end(2, Timestamp(3_000), &mut next));
        assert_eq!(
            times(&versions),
            [(1, 500, Some(1_000)), (2, 1_000, Some(3_000)), (10, 3_000, None), (9, 5_000, Some(5_000))]
        );
        assert_eq!(versions.in_force(Timestamp(3_000)).unwrap().figures, versions.0[0].figures);
        versions.end_all(Timestamp(4_000));
        assert_eq!(versions.in_force(Timestamp(4_000)), None);
        assert_eq!(versions.in_force(Timestamp(6_000)), None);
    }
}
