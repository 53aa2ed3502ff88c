//! The process, its disk, its provider and the time that passes, one step after another.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tollgate_core::budget::{Granted, Limit, Mode, Payer, Place, Scope};
use tollgate_core::price::{Kinds, Overrun, Price, Rates, Request, Size, TokenUsage};
use tollgate_core::{
    AttemptId, Interval, KeyId, Money, OrganizationId, ProjectId, SpendLimitId, Timestamp, UnitPrice, UserId,
    Zone,
};

use crate::attempt::{Attempt, Ending, Outcome, Reported, Seen, State as AttemptState, at_bound};
use crate::batch::{self, Decision, End, Orphan};
use crate::hold::{Held, Hold};
use crate::queue::{Asking, Entry, Queue, Refused, Taken, Waiting};
use crate::rollup::Line;
use crate::shelf::Shelf;
use crate::sums::Sums;
use crate::{Endpoint, recovery};

use super::Broken;
use super::books::{Books, Row, now};
use super::random::Random;

/// A hold in the hands of the process.
struct InHand {
    held: Arc<Held>,
    is_dispatched: bool,
    /// What the provider bills for it, once it is dispatched.
    bill: Money,
}

/// A batch that is written and not on disk yet.
struct Unsynced {
    strict: Vec<Arc<Held>>,
}

pub(super) struct World {
    random: Random,
    broken: Broken,
    now: Timestamp,
    ids: u128,
    payers: [Payer; 4],
    /// What is on disk, and what is written to the operating system.
    on_disk: Books,
    written: Books,
    queue: Queue,
    listening: Vec<oneshot::Receiver<Result<Hold, Refused>>>,
    unsynced: Vec<Unsynced>,
    in_hand: Vec<InHand>,
    /// Ends that were given to the ledger, for the one that comes twice.
    ended: Vec<End>,
    /// The provider's own bill, by attempt.
    bills: HashMap<AttemptId, Money>,
    /// By how much answers exceeded what they were bounded to: the one leak there is, and it is told.
    excess: HashMap<AttemptId, Money>,
    /// The most that each limit has been while a period lasted, for what was admitted under it.
    caps: HashMap<Place, Money>,
}

const START: Timestamp = Timestamp(1_780_000_000);
const PRICE: Price = Price {
    rates: Rates { output: Some(UnitPrice(3_000)), ..Rates::of_input(UnitPrice(1_000)) },
    ..Price::FREE
};

/// What broke, if something did.
pub(super) type Check = Result<(), String>;

impl World {
    pub(super) fn new(seed: u64, broken: Broken) -> Self {
        let payer = |project: u128, user: Option<u128>, key: u128| Payer {
            organization: OrganizationId::from_bits(1),
            project: ProjectId::from_bits(project),
            user: user.map(UserId::from_bits),
            key: KeyId::from_bits(key),
        };
        Self {
            random: Random(seed),
            broken,
            now: START,
            ids: 0,
            payers: [payer(1, Some(1), 1), payer(1, Some(2), 2), payer(2, Some(1), 3), payer(2, None, 4)],
            on_disk: Books::of(broken),
            written: Books::of(broken),
            queue: Queue::default(),
            listening: Vec::new(),
            unsynced: Vec::new(),
            in_hand: Vec::new(),
            ended: Vec::new(),
            bills: HashMap::new(),
            excess: HashMap::new(),
            caps: HashMap::new(),
        }
    }

    pub(super) fn step(&mut self) -> Check {
        match self.random.below(100) {
            0..25 => self.ask(),
            25..50 => self.run_batch()?,
            50..60 => self.sync(),
            60..84 => self.progress(),
            84..87 => self.end_twice(),
            87..91 => self.change_a_limit(),
            91..94 => self.pass_time(),
            94..96 => self.adjust(),
            96..98 => self.queue.end_patience(Instant::now()),
            _ => self.crash()?,
        }
        self.check()
    }

    fn id(&mut self) -> AttemptId {
        self.ids += 1;
        let millis = u128::try_from(self.now.0).unwrap_or(0) * 1_000;
        AttemptId::from_bits((millis << 80) | self.ids)
    }

    fn ask(&mut self) {
        let (id, number) = (self.id(), self.random.below(4));
        let is_endless = self.random.one_in(40);
        let size = Size {
            input: Some(self.random.below(50)),
            input_max: None,
            kinds: Kinds::NONE,
            output_each: (!is_endless).then(|| 1 + self.random.below(100)),
            output_each_max: None,
            choices: 1 + self.random.below(2),
            output_extra: 0,
            searches: Some(0),
            input_overrun: Overrun::NONE,
            output_overrun: Overrun::NONE,
        };
        let attempt = Attempt {
            id,
            attempt_of: None,
            payer: self.payers[usize::try_from(number).unwrap_or(0)],
            key_number: i64::try_from(number).unwrap_or(0),
            endpoint: Endpoint::Completions,
            model: Arc::from("m"),
            upstream: tollgate_core::UpstreamId::from_bits(1),
            labels: None,
            request: Request { price: Some(PRICE), size, ceiling: None },
            if_limited: None,
            input_estimate: 10,
            believable_max: 1_000_000,
            is_final: true,
            clamp_to: self.random.one_in(3).then_some(5),
        };
        let (answer, listening) = oneshot::channel();
        self.listening.push(listening);
        let patience = self.random.one_in(2).then(Instant::now);
        let is_strict = true;
        self.queue.push(Entry::Ask(Asking { attempt: Arc::new(attempt), patience, is_strict, answer }));
    }

    /// One batch, as `underway` runs it; it may fail to be written, and the process may end before or after.
    fn run_batch(&mut self) -> Check {
        let taken = self.queue.take();
        let (ends, asks, awaited) = (taken.ends.clone(), taken.asks(), taken.awaited.clone());
        let ends = self.misdate(ends);
        let before = self.written.clone();
        let mut books = before.clone();
        let limits = before.limits.clone();
        let mut decisions = if self.broken == Broken::CheckThenAct && asks.len() > 1 {
            let (first, second) = asks.split_at(asks.len() / 2);
            let mut decisions =
                now(batch::apply(&mut books, &limits, &awaited, &ends, first, self.now)).decisions;
            let mut other = before.clone();
            decisions
                .extend(now(batch::apply(&mut other, &limits, &awaited, &ends, second, self.now)).decisions);
            books.attempts.extend(other.attempts);
            books.budgets.extend(other.budgets);
            decisions
        } else {
            now(batch::apply(&mut books, &limits, &awaited, &ends, &asks, self.now)).decisions
        };
        if self.broken == Broken::ShrinksToFit {
            self.shrink(&mut books, &taken, &mut decisions);
        }
        if self.random.one_in(25) {
            // It could not be written: nobody is answered, and ends come again.
            self.queue.put_back(taken.ends, taken.flushes);
            drop(self.queue.dismiss());
            return Ok(());
        }
        self.written = books;
        self.check_grants(&decisions)?;
        if self.random.one_in(40) {
            return self.crash();
        }
        self.answer(taken, decisions);
        Ok(())
    }

    fn answer(&mut self, taken: Taken, decisions: Vec<Decision>) {
        let mut strict = Vec::new();
        for (asking, decision) in taken.asking.into_iter().zip(decisions) {
            match decision {
                Decision::Granted(held) => {
                    let waits_for_the_disk =
                        held.granted.remaining.is_some() && self.broken != Broken::AnswersBeforeTheDisk;
                    if waits_for_the_disk {
                        strict.push(held);
                    } else {
                        self.take_in_hand(held);
                    }
                }
                Decision::Waits(on) => self.queue.wait(Waiting { asking, on }),
                Decision::Refused(_) => {}
            }
        }
        self.unsynced.push(Unsynced { strict });
        self.listening
            .retain_mut(|listener| matches!(listener.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    }

    fn take_in_hand(&mut self, held: Arc<Held>) {
        self.in_hand.push(InHand { held, is_dispatched: false, bill: Money::ZERO });
    }

    fn sync(&mut self) {
        self.on_disk = self.written.clone();
        for unsynced in std::mem::take(&mut self.unsynced) {
            for held in unsynced.strict {
                self.take_in_hand(held);
            }
        }
    }

    /// Something happens to a hold in hand: it is dispatched, or comes to its end.
    fn progress(&mut self) {
        if self.in_hand.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.below(self.in_hand.len() as u64)).unwrap_or(0);
        if !self.in_hand[at].is_dispatched {
            if self.random.one_in(8) {
                let dropped = self.in_hand.swap_remove(at);
                return self.end(dropped.held, Ending::Voided);
            }
            return self.dispatch(at);
        }
        let InHand { held, bill, .. } = self.in_hand.swap_remove(at);
        let request = held.granted.request;
        let ending = match self.random.below(10) {
            0 => {
                // A refusal before it ran.
                self.bills.insert(held.attempt.id, Money::ZERO);
                Ending::Voided
            }
            1..3 => {
                let usage = TokenUsage { input: 10, output: 3, ..TokenUsage::default() };
                let seen = Seen { usage: self.random.one_in(2).then_some(usage), input_max: None };
                if self.broken == Broken::CutIsChargedBySight {
                    let usage = Some(TokenUsage { output: 1, ..TokenUsage::default() });
                    Ending::Cancelled { seen: Seen { usage, input_max: Some(0) }, is_shown: true }
                } else {
                    Ending::Ended { reported: Reported::default(), seen }
                }
            }
            _ => Ending::Ended {
                reported: Reported { usage: Some(usage_of(bill, &request)), ..Reported::default() },
                seen: Seen::default(),
            },
        };
        self.end(held, ending);
    }

    fn dispatch(&mut self, at: usize) {
        let held = Arc::clone(&self.in_hand[at].held);
        // What the provider may make: what it is told, which is what was granted.
        let told =
            if self.broken == Broken::ClampIsNotTold { held.attempt.request } else { held.granted.request };
        let (most, _) = at_bound(&told, 10);
        let most = if told.size.output_each.is_none() { TokenUsage { output: 300, ..most } } else { most };
        let share = |random: &mut Random, tokens: u64| {
            if random.one_in(3) { tokens } else { random.below(tokens + 1) }
        };
        let input = share(&mut self.random, most.input);
        let mut output = share(&mut self.random, most.output);
        let is_excess = self.random.one_in(60);
        if is_excess {
            output = most.output + 1 + self.random.below(50);
        }
        let bill = told.cost(TokenUsage { input, output, ..TokenUsage::default() }).total();
        if is_excess {
            self.excess.insert(held.attempt.id, bill);
        }
        self.bills.insert(held.attempt.id, bill);
        (self.in_hand[at].is_dispatched, self.in_hand[at].bill) = (true, bill);
    }

    fn end(&mut self, held: Arc<Held>, ending: Ending) {
        let end = End { held, ending };
        self.ended.push(end.clone());
        self.queue.push(Entry::End(end));
    }

    fn end_twice(&mut self) {
        if let Some(end) = self.ended.last().cloned() {
            self.queue.push(Entry::End(end));
        }
    }

    fn change_a_limit(&mut self) {
        let payer = self.payers[usize::try_from(self.random.below(4)).unwrap_or(0)];
        let scopes: Vec<Scope> = payer.scopes().collect();
        let (scope, interval) = (self.random.pick(&scopes), self.random.pick(&Interval::ALL));
        let mut limits: Vec<Limit> =
            self.written.limits.of(scope).iter().map(|limit| (**limit).clone()).collect();
        let before = limits.iter().position(|limit| limit.interval == interval).map(|at| limits.remove(at));
        if self.random.one_in(5) {
            if let Some(before) = before {
                self.written.budgets.retain(|(limit, _), _| *limit != before.id);
            }
            self.written.limits.set(scope, limits);
            return;
        }
        let zone = Zone::parse(self.random.pick(&["UTC", "UTC", "Europe/Berlin", "Asia/Kathmandu"])).unwrap();
        let amount = Money(i64::try_from(self.random.below(3_000)).unwrap_or(0) + 1);
        let mode = if self.random.one_in(5) { Mode::Observe } else { Mode::Enforce };
        // As it is stored: a new limit or zone is counted anew, a new amount is not.
        let kept = before.as_ref().filter(|before| before.zone == zone);
        let id = kept.map_or_else(|| SpendLimitId::from_bits(self.id_bits()), |before| before.id);
        let since = kept.map_or(self.now, |before| before.since);
        if let (Some(before), None) = (&before, kept) {
            self.written.budgets.retain(|(limit, _), _| *limit != before.id);
        }
        let limit = Limit { id, scope, interval, zone, amount, mode, since };
        limits.push(limit.clone());
        self.written.limits.set(scope, limits);
        let (limit, period) = (Arc::new(limit.clone()), limit.period(self.now));
        if !self.written.budgets.contains_key(&(limit.id, period.start)) {
            let opened = self.written.opened(&limit, period);
            self.written.budgets.insert(opened.place(), opened);
        }
        self.sync();
    }

    fn id_bits(&mut self) -> u128 {
        self.ids += 1;
        self.ids
    }

    fn pass_time(&mut self) {
        let seconds = self.random.pick(&[60, 3_600, 20_000, 86_400, 86_400 * 9]);
        self.now = self.now.plus_seconds(seconds);
    }

    fn adjust(&mut self) {
        let settled = |row: &&Row| row.state == AttemptState::Settled;
        let rows: Vec<Row> = self.written.attempts.values().filter(settled).cloned().collect();
        let Some(row) = rows.last() else { return };
        let (attempt, now_cost) = (&row.held.attempt, row.cost + row.adjusted);
        let by = Money(i64::try_from(self.random.below(50)).unwrap_or(0)) - now_cost.min(Money(25));
        self.written.attempts.get_mut(&attempt.id).unwrap().adjusted += by;
        let line = Line::of(attempt, TokenUsage::default());
        let sums = Sums { adjusted_cost: by, ..Sums::default() };
        let limits = self.written.limits.clone();
        let by = (&attempt.payer, attempt.key_number);
        now(batch::adjust(&mut self.written, &limits, by, &line, attempt.created_at(), &sums));
        self.sync();
    }

    /// The process ends, or the power does; what is stored is looked at again.
    fn crash(&mut self) -> Check {
        if self.random.one_in(2) {
            // What was not on disk is lost. Under a limit nothing of it was sent.
            let lost = self.written.attempts.keys().filter(|id| !self.on_disk.attempts.contains_key(id));
            for id in lost.copied().collect::<Vec<_>>() {
                let is_limited = self.written.attempts[&id].held.granted.remaining.is_some();
                let bill = self.bills.remove(&id).unwrap_or_default();
                if is_limited && bill > Money::ZERO {
                    return Err(format!(
                        "{id} was sent under a limit, billed {bill}, and is not on the books"
                    ));
                }
            }
            self.written = self.on_disk.clone();
        }
        self.queue = Queue::default();
        self.listening.clear();
        self.unsynced.clear();
        self.in_hand.clear();
        self.ended.clear();
        self.recover();
        self.sync();
        Ok(())
    }

    fn recover(&mut self) {
        let open: Vec<Row> =
            self.written.attempts.values().filter(|row| row.state == AttemptState::Held).cloned().collect();
        let limits = self.written.limits.clone();
        let mut ends = Vec::new();
        for row in open {
            let (attempt, request) = (row.held.attempt.as_ref(), &row.held.granted.request);
            let (usage, cost) = at_bound(request, attempt.input_estimate);
            let outcome = match self.broken {
                Broken::RecoveryVoids => Outcome::Voided,
                _ => recovery::outcome(&limits, &attempt.payer, usage, cost),
            };
            if self.broken == Broken::RecoveryForgets {
                self.written.attempts.remove(&attempt.id);
                for budget in self.written.budgets.values_mut() {
                    let counts = attempt.payer.scopes().any(|scope| scope == budget.limit.scope)
                        && budget.period.contains(attempt.created_at());
                    if counts {
                        budget.held -= row.bound().unwrap_or_default();
                        budget.unbounded -= u64::from(row.bound().is_none()).min(budget.unbounded);
                    }
                }
                continue;
            }
            let (bound, is_clamped) = (row.bound(), row.held.granted.is_clamped);
            ends.push(Orphan { attempt: attempt.clone(), bound, is_clamped, outcome });
        }
        now(batch::recover(&mut self.written, &limits, &ends, self.now));
    }

    // What is broken on purpose.

    fn misdate(&mut self, ends: Vec<End>) -> Vec<End> {
        if self.broken != Broken::SettlesInTheWrongPeriod {
            return ends;
        }
        // The attempt ends under its own id, and its money goes to the period of today.
        let mut misdated = Vec::new();
        for End { held, ending } in ends {
            let id = self.id();
            if let Some(row) = self.written.attempts.remove(&held.attempt.id) {
                let attempt = Arc::new(Attempt { id, ..(*held.attempt).clone() });
                let moved = Arc::new(Held { attempt, granted: held.granted });
                let bill = self.bills.remove(&held.attempt.id);
                self.bills.extend(bill.map(|bill| (id, bill)));
                self.written.attempts.insert(id, Row { held: Arc::clone(&moved), ..row });
                misdated.push(End { held: moved, ending });
            }
        }
        misdated
    }

    fn shrink(&mut self, books: &mut Books, taken: &Taken, decisions: &mut [Decision]) {
        for (asking, decision) in taken.asking.iter().zip(decisions) {
            if !matches!(decision, Decision::Refused(_)) {
                continue;
            }
            // Admitted with a hold of nothing, and sent as it was asked for.
            let nothing = Request::flat(Some(Money::ZERO));
            let granted = Granted {
                request: nothing,
                bound: Some(Money::ZERO),
                is_clamped: false,
                remaining: Some(Money::ZERO),
            };
            let held = Arc::new(Held { attempt: Arc::clone(&asking.attempt), granted });
            now(books.insert(&[held]));
            let (usage, _) = at_bound(&asking.attempt.request, 10);
            self.bills.insert(asking.attempt.id, asking.attempt.request.cost(usage).total());
            let place = (SpendLimitId::from_bits(0), self.now);
            *decision = Decision::Waits((place, asking.attempt.payer.project));
        }
    }

    // What must hold.

    /// Nothing is granted beyond a limit that enforces.
    fn check_grants(&mut self, decisions: &[Decision]) -> Check {
        for decision in decisions {
            let Decision::Granted(held) = decision else { continue };
            let attempt = &held.attempt;
            for limit in self.written.limits.path(&attempt.payer) {
                let place = (limit.id, limit.period(attempt.created_at()).start);
                let budget = self.written.budgets.get(&place).ok_or("a grant without its budget")?;
                if limit.mode == Mode::Enforce && budget.settled + budget.held > limit.amount {
                    return Err(format!("granted {} beyond {:?}", attempt.id, budget));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Check {
        let books = &self.written;
        for budget in books.budgets.values() {
            let said = (budget.settled, budget.held, budget.unbounded);
            let is = books.sums(budget.limit.scope, budget.period);
            if said != is {
                return Err(format!("budget {:?} says {said:?}, its attempts {is:?}", budget.limit));
            }
        }
        let rollups: Money = books.rollups.values().copied().sum();
        let settled: Money = books.attempts.values().map(|row| row.cost + row.adjusted).sum();
        if rollups != settled {
            return Err(format!("rollups say {rollups}, attempts {settled}"));
        }
        self.check_bills()?;
        self.check_caps()
    }

    /// What the provider bills is on the books, unless nobody could know: without a limit what was cut is charged by sight.
    fn check_bills(&self) -> Check {
        for (id, bill) in &self.bills {
            let Some(row) = self.written.attempts.get(id) else {
                return Err(format!("{id} was billed {bill} and is not on the books"));
            };
            let is_limited = row.is_limited_at_end && row.bound().is_some();
            if row.state == AttemptState::Settled
                && is_limited
                && row.cost < *bill
                && !self.excess.contains_key(id)
            {
                return Err(format!("{id} was billed {bill} and charged {}", row.cost));
            }
            if row.state == AttemptState::Voided && *bill > Money::ZERO && is_limited {
                return Err(format!("{id} was billed {bill} and voided"));
            }
        }
        Ok(())
    }

    /// Where a limit enforced from the beginning of a period, the provider's bill for it is within the most that the limit
    /// ever was; but for what exceeded its bound, and for what no limit could bound.
    fn check_caps(&mut self) -> Check {
        for budget in self.written.budgets.values() {
            let cap = self.caps.entry(budget.place()).or_default();
            let limits = self.written.limits.of(budget.limit.scope);
            let Some(limit) = limits.iter().find(|limit| limit.id == budget.limit.id) else { continue };
            *cap = if limit.mode == Mode::Enforce && limit.since <= budget.period.start {
                limit.amount.max(*cap)
            } else {
                Money::MAX
            };
            let of_budget = |row: &&Row| {
                let attempt = &row.held.attempt;
                budget.period.contains(attempt.created_at())
                    && attempt.payer.scopes().any(|scope| scope == limit.scope)
            };
            let (mut bill, mut excess) = (Money::ZERO, Money::ZERO);
            for row in self.written.attempts.values().filter(of_budget) {
                let id = row.held.attempt.id;
                bill += self.bills.get(&id).copied().unwrap_or_default();
                excess += self.excess.get(&id).copied().unwrap_or_default();
                // A correction may lower what the books say below what was billed, and let more through.
                excess += Money::ZERO.max(Money::ZERO - row.adjusted);
            }
            if *cap != Money::MAX && bill > *cap + excess {
                return Err(format!("the provider bills {bill} under a limit of {cap}"));
            }
        }
        Ok(())
    }
}

/// Usage that costs exactly `bill`, as the provider reports it: it cannot always be told back into tokens, so it is told
/// in the least that costs as much.
fn usage_of(bill: Money, request: &Request) -> TokenUsage {
    let nanos = bill.nanos().unsigned_abs();
    let input = nanos % 3;
    debug_assert!(request.price == Some(PRICE));
    TokenUsage { input, output: (nanos - input) / 3, ..TokenUsage::default() }
}
