//! The machine that grants holds: pure, and the only thing that does.
//!
//! For every budget and at every grant: settled + held <= limit. A hold is granted on all budgets of its path or on
//! none, and is resolved once: settled at what it really cost, or voided. An actual above its bound is charged in full.

use crate::money::Money;

/// One limit over one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub limit: Money,
    pub settled: Money,
    pub held: Money,
}

/// Why a hold was refused, and by which budget of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Position in the path, whose widest budget comes first.
    pub by: usize,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request has no bound: its model has no price, or its size no limit.
    Unbounded,
    /// It would not fit even if nothing were in flight.
    Exhausted,
    /// It would fit if what is in flight cost nothing.
    Held,
}

impl Budget {
    /// What is neither spent nor reserved. Negative after a limit was lowered or an actual exceeded its bound.
    pub fn remaining(&self) -> Money {
        self.limit - self.settled - self.held
    }

    fn refuses(&self, bound: Option<Money>) -> Option<Reason> {
        let Some(bound) = bound else { return Some(Reason::Unbounded) };
        let sum = |parts: [Money; 3]| parts.iter().map(|part| i128::from(part.nanos())).sum::<i128>();
        let limit = i128::from(self.limit.nanos());
        if sum([self.settled, bound, Money::ZERO]) > limit {
            Some(Reason::Exhausted)
        } else if sum([self.settled, self.held, bound]) > limit {
            Some(Reason::Held)
        } else {
            None
        }
    }
}

/// Grants a hold of `bound` on every budget of `path` (positions in `budgets`, widest first) or says why not.
///
/// If several refuse, a reason that waiting cannot cure goes before one it can, and then the widest budget.
pub fn hold(budgets: &mut [Budget], path: &[usize], bound: Option<Money>) -> Result<(), Refusal> {
    let refusals = path
        .iter()
        .enumerate()
        .filter_map(|(by, at)| budgets[*at].refuses(bound).map(|reason| Refusal { by, reason }));
    let worst = refusals.min_by_key(|refusal| {
        let curable = refusal.reason == Reason::Held;
        (curable, refusal.by)
    });
    if let Some(refusal) = worst {
        return Err(refusal);
    }
    for at in path {
        budgets[*at].held += bound.unwrap_or_default();
    }
    Ok(())
}

/// Ends a hold of `bound`: gives it back and charges `actual` (zero for a void) to every budget of `path`.
pub fn resolve(budgets: &mut [Budget], path: &[usize], bound: Money, actual: Money) {
    for at in path {
        budgets[*at].held -= bound;
        budgets[*at].settled += actual;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(limit: i64, settled: i64, held: i64) -> Budget {
        Budget { limit: Money(limit), settled: Money(settled), held: Money(held) }
    }

    #[test]
    fn a_hold_fits_to_the_last_nano_dollar_and_not_beyond() {
        let mut budgets = [budget(100, 40, 10)];
        assert_eq!(hold(&mut budgets, &[0], Some(Money(51))), Err(Refusal { by: 0, reason: Reason::Held }));
        assert_eq!(
            hold(&mut budgets, &[0], Some(Money(61))),
            Err(Refusal { by: 0, reason: Reason::Exhausted })
        );
        assert_eq!(hold(&mut budgets, &[0], Some(Money(50))), Ok(()));
        assert_eq!(budgets[0], budget(100, 40, 60));
    }

    #[test]
    fn what_has_no_bound_is_refused_by_any_budget_and_free_without_one() {
        let mut budgets = [budget(i64::MAX, 0, 0)];
        assert_eq!(hold(&mut budgets, &[0], None), Err(Refusal { by: 0, reason: Reason::Unbounded }));
        assert_eq!(hold(&mut budgets, &[], None), Ok(()));
    }

    #[test]
    fn a_refusal_names_the_widest_spent_budget_before_one_that_is_only_held() {
        let mut budgets = [budget(100, 0, 100), budget(100, 100, 0), budget(50, 50, 0)];
        assert_eq!(
            hold(&mut budgets, &[0, 1, 2], Some(Money(1))),
            Err(Refusal { by: 1, reason: Reason::Exhausted })
        );
        assert_eq!(budgets[0], budget(100, 0, 100), "a refused request takes nothing");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hold { path: u8, bound: i64 },
        Resolve { which: usize, actual_percent: i64 },
        SetLimit { which: usize, limit: i64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1..8u8, 0..300i64).prop_map(|(path, bound)| Step::Hold { path, bound }),
            3 => (any::<usize>(), 0..=100i64).prop_map(|(which, actual_percent)| Step::Resolve { which, actual_percent }),
            1 => (0..3usize, 0..2_000i64).prop_map(|(which, limit)| Step::SetLimit { which, limit }),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_history_grants_beyond_a_limit_and_the_books_follow_the_holds(steps in steps()) {
            let mut budgets = [budget(1_000, 0, 0), budget(700, 0, 0), budget(400, 0, 0)];
            let mut open: Vec<(Vec<usize>, Money)> = Vec::new();
            let mut spent = [Money::ZERO; 3];
            for step in steps {
                match step {
                    Step::Hold { path, bound } => {
                        let path: Vec<usize> = (0..3).filter(|bit| path & (1 << bit) != 0).collect();
                        let before = budgets;
                        match hold(&mut budgets, &path, Some(Money(bound))) {
                            Ok(()) => {
                                for at in &path {
                                    prop_assert!(budgets[*at].remaining() >= Money::ZERO);
                                }
                                open.push((path, Money(bound)));
                            }
                            Err(refusal) => {
                                prop_assert_eq!(budgets, before);
                                prop_assert!(before[path[refusal.by]].remaining() < Money(bound));
                            }
                        }
                    }
                    Step::Resolve { which, actual_percent } if !open.is_empty() => {
                        let (path, bound) = open.swap_remove(which % open.len());
                        let actual = Money(bound.nanos() * actual_percent / 100);
                        resolve(&mut budgets, &path, bound, actual);
                        for at in path {
                            spent[at] += actual;
                        }
                    }
                    Step::Resolve { .. } => {}
                    Step::SetLimit { which, limit } => budgets[which].limit = Money(limit),
                }
                for at in 0..3 {
                    let held: Money = open.iter().filter(|(path, _)| path.contains(&at)).map(|(_, bound)| *bound).sum();
                    prop_assert_eq!(budgets[at].held, held);
                    prop_assert_eq!(budgets[at].settled, spent[at]);
                }
            }
        }
    }
}
