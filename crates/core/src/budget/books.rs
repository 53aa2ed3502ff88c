//! The budgets that one batch touches, and the decisions on them.

use foldhash::{HashMap, HashSet};

use super::{Budget, Reason, Refusal};
use crate::id::{ProjectId, SpendLimitId};
use crate::money::Money;
use crate::price::Request;
use crate::time::Timestamp;

/// Which budget: a limit and the beginning of a period.
pub type Place = (SpendLimitId, Timestamp);

/// Those of one project who wait for one budget. They are served in the order they came; others do not stand behind them,
/// for a project that asks for much could keep them waiting.
pub type Turn = (Place, ProjectId);

/// A request that asks for its money.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub project: ProjectId,
    pub request: Request,
    /// Whether its bound is as close as it can be. If not, it is refused where a limit that only observes would refuse
    /// it, so that what is counted there is what enforcing would refuse.
    pub is_final: bool,
    /// Less output than asked for will do, but no choice with less than this; `None` if only all of it will.
    pub clamp_to: Option<u64>,
    /// Whether it may wait for money that requests in flight give back.
    pub may_wait: bool,
}

/// What was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// As asked for, or with less output.
    pub request: Request,
    /// What that can cost at most; `None` if nothing bounds it.
    pub bound: Option<Money>,
    pub is_clamped: bool,
    /// What is left of the tightest budget that enforces; `None` where none does.
    pub remaining: Option<Money>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and mostly the large one")]
pub enum Verdict {
    Granted(Granted),
    /// Its turn comes when this budget, at a position of the path, gets money back.
    Waits {
        on: usize,
    },
    Refused(Refusal),
}

/// Budgets as they are read at the beginning of a batch and as its decisions change them.
#[derive(Debug, Default)]
pub struct Books {
    budgets: Vec<Budget>,
    places: HashMap<Place, usize>,
    touched: HashSet<usize>,
    /// Where somebody waits who came before: first come, first served.
    awaited: HashSet<Turn>,
}

impl Books {
    pub fn find(&self, place: Place) -> Option<usize> {
        self.places.get(&place).copied()
    }

    /// Takes in a budget that was read, or opened.
    pub fn add(&mut self, budget: Budget) -> usize {
        let at = self.budgets.len();
        self.places.insert(budget.place(), at);
        self.budgets.push(budget);
        at
    }

    pub fn budget(&self, at: usize) -> &Budget {
        &self.budgets[at]
    }

    /// The budgets that were changed, to be written.
    pub fn touched(&self) -> impl Iterator<Item = &Budget> {
        let mut touched: Vec<usize> = self.touched.iter().copied().collect();
        // One order for all, so that no two writers wait for each other.
        touched.sort_by_key(|at| self.budgets[*at].place());
        touched.into_iter().map(|at| &self.budgets[at])
    }

    /// Notes that somebody waits. Who comes later must not overtake.
    pub fn await_turn(&mut self, turn: Turn) {
        self.awaited.insert(turn);
    }

    /// Ends a hold of `bound` (`None` if it had none): gives it back, and charges `actual`, zero for a void, to every
    /// budget of `path`.
    pub fn end(&mut self, path: &[usize], bound: Option<Money>, actual: Money) {
        for at in path {
            let budget = &mut self.budgets[*at];
            match bound {
                Some(bound) => budget.held -= bound,
                None => budget.unbounded = budget.unbounded.saturating_sub(1),
            }
            budget.settled += actual;
            self.touched.insert(*at);
        }
    }

    /// Changes what was settled, by a correction afterwards; `None` if a sum would be more than can be counted.
    #[must_use]
    pub fn adjust(&mut self, path: &[usize], by: Money) -> Option<()> {
        for at in path {
            let settled = &mut self.budgets[*at].settled;
            *settled = settled.checked_add(by)?;
            self.touched.insert(*at);
        }
        Some(())
    }

    /// Decides on a wish, whose budgets are at the positions `path`, widest first.
    pub fn decide(&mut self, path: &[usize], wish: &Wish, now: Timestamp) -> Verdict {
        let Some(refusal) = self.refusal(path, wish, &wish.request) else {
            return match self.observed_misfit(path, &wish.request).filter(|_| !wish.is_final) {
                Some(refusal) => Verdict::Refused(refusal),
                None => Verdict::Granted(self.grant(path, &wish.request, false)),
            };
        };
        if refusal.reason == Reason::Unbounded {
            return Verdict::Refused(refusal);
        }
        if refusal.reason == Reason::Held && wish.may_wait {
            return self.wait(path, wish, refusal.by);
        }
        let Some(each_min) = wish.clamp_to else { return self.refuse(path, refusal, now) };
        if let Some(clamped) = wish.request.clamped(self.available(path), each_min)
            && self.refusal(path, wish, &clamped).is_none()
        {
            return Verdict::Granted(self.grant(path, &clamped, true));
        }
        // As little as would do may yet fit when what is in flight gives back.
        let least = wish.request.clamped(Money::MAX, each_min).map(|_| least(&wish.request, each_min));
        match least.and_then(|least| self.refusal(path, wish, &least)) {
            Some(Refusal { reason: Reason::Held, by }) if wish.may_wait => self.wait(path, wish, by),
            Some(held @ Refusal { reason: Reason::Held, .. }) => Verdict::Refused(held),
            _ => self.refuse(path, refusal, now),
        }
    }

    /// Why the budgets that enforce refuse; the gravest reason, and for that the widest.
    fn refusal(&self, path: &[usize], wish: &Wish, request: &Request) -> Option<Refusal> {
        let bound = request.bound().map(crate::price::Bound::total);
        let refusals = path.iter().enumerate().filter_map(|(by, at)| {
            let budget = &self.budgets[*at];
            if !budget.is_enforced() {
                return None;
            }
            let turn = (budget.place(), wish.project);
            let behind = || self.awaited.contains(&turn).then_some(Reason::Held);
            budget.misfit(bound).or_else(behind).map(|reason| Refusal { by, reason })
        });
        refusals.min_by_key(|refusal| (refusal.reason, refusal.by))
    }

    /// Where a limit that only observes would refuse, and might not if the bound were closer.
    fn observed_misfit(&self, path: &[usize], request: &Request) -> Option<Refusal> {
        let bound = request.bound().map(crate::price::Bound::total)?;
        path.iter().enumerate().find_map(|(by, at)| {
            let budget = &self.budgets[*at];
            let may_fit = !budget.is_enforced() && budget.remaining() > Money::ZERO;
            budget.misfit(Some(bound)).filter(|_| may_fit).map(|reason| Refusal { by, reason })
        })
    }

    /// The most that can be granted now.
    fn available(&self, path: &[usize]) -> Money {
        let enforced = path.iter().map(|at| &self.budgets[*at]).filter(|budget| budget.is_enforced());
        enforced.map(Budget::remaining).min().unwrap_or(Money::MAX)
    }

    fn wait(&mut self, path: &[usize], wish: &Wish, on: usize) -> Verdict {
        self.awaited.insert((self.budgets[path[on]].place(), wish.project));
        Verdict::Waits { on }
    }

    fn refuse(&mut self, path: &[usize], refusal: Refusal, now: Timestamp) -> Verdict {
        let at = path[refusal.by];
        let budget = &mut self.budgets[at];
        // A request that is larger than the whole limit does not mean that the limit is reached.
        let is_reached = refusal.reason == Reason::Exhausted && budget.settled > Money::ZERO;
        if is_reached && budget.refused_at.is_none() {
            budget.refused_at = Some(now);
            self.touched.insert(at);
        }
        Verdict::Refused(refusal)
    }

    fn grant(&mut self, path: &[usize], request: &Request, is_clamped: bool) -> Granted {
        let bound = request.bound().map(crate::price::Bound::total);
        for at in path {
            let budget = &mut self.budgets[*at];
            if budget.is_enforced() {
                budget.refused_at = None;
            } else if budget.misfit(bound).is_some() {
                budget.observed += 1;
            }
            match bound {
                Some(bound) => budget.held += bound,
                None => budget.unbounded += 1,
            }
            self.touched.insert(*at);
        }
        let enforced = path.iter().map(|at| &self.budgets[*at]).filter(|budget| budget.is_enforced());
        Granted { request: *request, bound, is_clamped, remaining: enforced.map(Budget::remaining).min() }
    }
}

fn least(request: &Request, each_min: u64) -> Request {
    let each = request.size.output_each.map_or(each_min, |each| each.min(each_min));
    Request { size: crate::price::Size { output_each: Some(each), ..request.size }, ..*request }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Limit, Mode, Scope};
    use super::*;
    use crate::money::UnitPrice;
    use crate::period::{Interval, Zone};
    use crate::price::{Price, Rates, Size};

    const NOW: Timestamp = Timestamp(1_780_000_000);

    fn budget(number: u128, limit: i64, settled: i64, held: i64, mode: Mode) -> Budget {
        let limit = Limit {
            id: SpendLimitId::from_bits(number),
            scope: Scope::Project(ProjectId::from_bits(number)),
            interval: Interval::Month,
            zone: Zone::UTC,
            amount: Money(limit),
            mode,
            since: Timestamp(0),
        };
        let period = limit.period(NOW);
        Budget { settled: Money(settled), held: Money(held), ..Budget::new(Arc::new(limit), period) }
    }

    fn books(budgets: &[(i64, i64, i64)]) -> (Books, Vec<usize>) {
        let mut books = Books::default();
        let numbered = budgets.iter().enumerate();
        let path = numbered.map(|(number, (limit, settled, held))| {
            books.add(budget(number as u128, *limit, *settled, *held, Mode::Enforce))
        });
        let path = path.collect();
        (books, path)
    }

    /// A request whose output costs a nano-dollar a token, and its input nothing.
    fn request(output: u64) -> Request {
        let rates = Rates { output: Some(UnitPrice(1_000)), ..Rates::of_input(UnitPrice(0)) };
        let size = Size { output_each: Some(output), output_each_max: None, ..Size::without_output(Some(0)) };
        Request { price: Some(Price { rates, ..Price::FREE }), size, ceiling: None }
    }

    /// One whose bound is `money`: a nano-dollar is for rounding.
    fn costing(money: i64) -> Request {
        request(u64::try_from(money - 1).unwrap())
    }

    fn wish(request: &Request) -> Wish {
        Wish {
            project: ProjectId::from_bits(1),
            request: *request,
            is_final: true,
            clamp_to: None,
            may_wait: false,
        }
    }

    fn refused(verdict: &Verdict) -> Refusal {
        match verdict {
            Verdict::Refused(refusal) => *refusal,
            other => panic!("{other:?}"),
        }
    }

    fn granted(verdict: &Verdict) -> Granted {
        match verdict {
            Verdict::Granted(granted) => *granted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hold_fits_to_the_last_nano_dollar_and_not_beyond() {
        let (mut books, path) = books(&[(100, 40, 10)]);
        let held = refused(&books.decide(&path, &wish(&costing(51)), NOW));
        assert_eq!(held, Refusal { by: 0, reason: Reason::Held });
        let exhausted = refused(&books.decide(&path, &wish(&costing(61)), NOW));
        assert_eq!(exhausted, Refusal { by: 0, reason: Reason::Exhausted });
        assert_eq!(granted(&books.decide(&path, &wish(&costing(50)), NOW)).remaining, Some(Money::ZERO));
        assert_eq!((books.budget(0).settled, books.budget(0).held), (Money(40), Money(60)));
    }

    #[test]
    fn what_has_no_bound_is_refused_by_any_limit_and_free_without_one() {
        let endless = Request { size: Size { output_each: None, ..request(0).size }, ..request(0) };
        let (mut books, path) = books(&[(i64::MAX, 0, 0)]);
        assert_eq!(refused(&books.decide(&path, &wish(&endless), NOW)).reason, Reason::Unbounded);
        assert_eq!(granted(&books.decide(&[], &wish(&endless), NOW)).remaining, None);
    }

    #[test]
    fn what_has_no_bound_and_is_in_flight_holds_all_there_is() {
        let endless = Request { size: Size { output_each: None, ..request(0).size }, ..request(0) };
        let mut books = Books::default();
        let watching = books.add(budget(1, 100, 0, 0, Mode::Observe));
        granted(&books.decide(&[watching], &wish(&endless), NOW));
        assert_eq!((books.budget(watching).unbounded, books.budget(watching).observed), (1, 1));
        let mut enforced = books.budget(watching).clone();
        enforced.limit = Arc::new(Limit { mode: Mode::Enforce, ..(*enforced.limit).clone() });
        let mut books = Books::default();
        let path = [books.add(enforced)];
        assert_eq!(refused(&books.decide(&path, &wish(&costing(5)), NOW)).reason, Reason::Held);
        books.end(&path, None, Money(20));
        assert_eq!(granted(&books.decide(&path, &wish(&costing(5)), NOW)).remaining, Some(Money(75)));
    }

    #[test]
    fn a_refusal_names_the_widest_spent_budget_before_one_that_is_only_held() {
        let (mut books, path) = books(&[(100, 0, 100), (100, 100, 0), (50, 50, 0)]);
        let refusal = refused(&books.decide(&path, &wish(&costing(2)), NOW));
        assert_eq!(refusal, Refusal { by: 1, reason: Reason::Exhausted });
        assert_eq!(books.budget(0).held, Money(100), "a refused request takes nothing");
    }

    #[test]
    fn a_limit_that_observes_counts_what_it_would_have_refused_and_refuses_nothing() {
        let mut books = Books::default();
        let path =
            [books.add(budget(1, 10, 0, 0, Mode::Observe)), books.add(budget(2, 100, 0, 0, Mode::Enforce))];
        assert_eq!(granted(&books.decide(&path, &wish(&costing(10)), NOW)).remaining, Some(Money(90)));
        granted(&books.decide(&path, &wish(&costing(10)), NOW));
        refused(&books.decide(&path, &wish(&costing(90)), NOW));
        assert_eq!((books.budget(0).observed, books.budget(0).held), (1, Money(20)));
        assert!(!books.budget(0).is_enforcing());
    }

    #[test]
    fn enforcement_shows_while_the_money_is_spent_and_not_for_one_request_that_is_too_large() {
        let (mut books, path) = books(&[(100, 0, 0)]);
        refused(&books.decide(&path, &wish(&costing(500)), NOW));
        assert!(!books.budget(0).is_enforcing(), "nothing was spent");
        granted(&books.decide(&path, &wish(&costing(95)), NOW));
        books.end(&path, Some(Money(95)), Money(95));
        refused(&books.decide(&path, &wish(&costing(6)), NOW));
        assert!(books.budget(0).is_enforcing());
        granted(&books.decide(&path, &wish(&costing(5)), NOW));
        assert!(!books.budget(0).is_enforcing(), "something fits again");
        books.end(&path, Some(Money(5)), Money(5));
        assert!(books.budget(0).is_enforcing(), "not a nano-dollar is left");
    }

    #[test]
    fn whoever_waits_is_not_overtaken_on_the_budget_they_wait_for() {
        let (mut books, path) = books(&[(1_000, 0, 0), (100, 0, 80), (100, 0, 0)]);
        let patient = |request| Wish { may_wait: true, ..wish(&request) };
        assert_eq!(books.decide(&path[..2], &patient(costing(30)), NOW), Verdict::Waits { on: 1 });
        assert_eq!(books.decide(&path[..2], &patient(costing(5)), NOW), Verdict::Waits { on: 1 });
        assert_eq!(refused(&books.decide(&path[..2], &wish(&costing(5)), NOW)).reason, Reason::Held);
        assert_eq!(refused(&books.decide(&path[..2], &wish(&costing(500)), NOW)).reason, Reason::Exhausted);
        // Somebody who shares only the wide budget does not wait behind them, and nor does another project.
        granted(&books.decide(&[path[0], path[2]], &patient(costing(30)), NOW));
        let other = Wish { project: ProjectId::from_bits(2), ..wish(&costing(5)) };
        granted(&books.decide(&path[..2], &other, NOW));
    }

    #[test]
    fn what_an_observing_limit_would_refuse_is_bounded_as_closely_as_can_be_before_it_is_counted() {
        let mut books = Books::default();
        let path = [books.add(budget(1, 10, 0, 0, Mode::Observe))];
        let rough = Wish { is_final: false, ..wish(&costing(20)) };
        assert_eq!(refused(&books.decide(&path, &rough, NOW)).reason, Reason::Exhausted);
        assert_eq!((books.budget(0).observed, books.budget(0).held), (0, Money::ZERO));
        granted(&books.decide(&path, &wish(&costing(10)), NOW));
        assert_eq!(books.budget(0).observed, 0);
        // With nothing left a closer bound would not fit either.
        granted(&books.decide(&path, &rough, NOW));
        assert_eq!(books.budget(0).observed, 1);
    }

    #[test]
    fn a_clamped_request_gets_what_fits_and_never_less_than_its_floor() {
        let clamp = |request, clamp_to| Wish { clamp_to: Some(clamp_to), ..wish(&request) };
        let (mut first, path) = books(&[(100, 60, 0)]);
        let made = granted(&first.decide(&path, &clamp(costing(80), 30), NOW));
        assert!(made.is_clamped);
        assert_eq!((made.request.size.output_each, made.remaining), (Some(39), Some(Money::ZERO)));
        let (mut second, path) = books(&[(100, 60, 0)]);
        assert_eq!(refused(&second.decide(&path, &clamp(costing(80), 40), NOW)).reason, Reason::Exhausted);
        assert!(!granted(&second.decide(&path, &clamp(costing(20), 40), NOW)).is_clamped);
    }

    #[test]
    fn a_request_that_may_be_clamped_waits_first_for_all_of_it_and_then_for_its_floor() {
        let clamp = |request, may_wait| Wish { clamp_to: Some(20), may_wait, ..wish(&request) };
        let (mut books, path) = books(&[(100, 0, 60)]);
        assert_eq!(books.decide(&path, &clamp(costing(90), true), NOW), Verdict::Waits { on: 0 });
        let mut books = self::books(&[(100, 0, 60)]).0;
        assert_eq!(
            granted(&books.decide(&path, &clamp(costing(90), false), NOW)).request.size.output_each,
            Some(39)
        );
        // Larger than the limit, and too little is free: but the floor would fit.
        let mut books = self::books(&[(100, 0, 90)]).0;
        assert_eq!(books.decide(&path, &clamp(costing(190), true), NOW), Verdict::Waits { on: 0 });
        let mut books = self::books(&[(100, 0, 90)]).0;
        assert_eq!(refused(&books.decide(&path, &clamp(costing(190), false), NOW)).reason, Reason::Held);
    }
}
