//! The ledger over a real database: what it grants, how holds end, and that the books balance after all of it.

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::budget::{Budget, Mode, Payer, Scope};
use tollgate_core::price::{Overrun, Price, Rates, Request, Size, TokenUsage};
use tollgate_core::{
    Clock, Error, Interval, Money, OrganizationId, ProjectId, Result, Timestamp, UnitPrice, UserId, Zone,
};
use tollgate_store::{DataDir, Db, MIGRATIONS, Options as DbOptions, Row, Sql, params};

use crate::adjustment::{self, Change, Kind};
use crate::spend_limit::{self, Wanted};
use crate::{
    Attempt, Dispatched, Endpoint, Flags, Hold, Ledger, Options, Refused, Reported, fsck, recovery, replay,
};

/// A dollar a million tokens, in and out: a thousand tokens cost a tenth of a cent.
const PRICE: Price = Price {
    rates: Rates {
        input: UnitPrice(1_000_000),
        cached_input: None,
        cache_write: None,
        output: Some(UnitPrice(1_000_000)),
    },
    long_context: None,
};

/// What a request of the tests costs at most: 1,000 tokens each way, and three nano-dollars for rounding.
const BOUND: i64 = 2_000_003;

const SIZE: Size = Size {
    input: Some(1_000),
    input_max: None,
    output_each: Some(1_000),
    output_each_max: None,
    choices: 1,
    output_extra: 0,
    input_overrun: Overrun::NONE,
    output_overrun: Overrun::NONE,
};

/// Two people with a key each in one project, and a second project with a key of the first person.
struct Fixture {
    _home: tempfile::TempDir,
    directory: DataDir,
    db: Db,
    clock: Clock,
    ledger: Ledger,
    organization: OrganizationId,
    payers: Vec<Payer>,
}

impl Fixture {
    async fn new() -> Self {
        Self::starting(Timestamp(1_780_000_000)).await // 2026-05-28T20:26:40Z, a Thursday
    }

    async fn starting(start: Timestamp) -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = DataDir::new(home.path());
        let clock = Clock::manual(start);
        directory.create().unwrap();
        let db = directory.open(DbOptions { create: true, read_only: false }).unwrap();
        db.migrate(&directory, MIGRATIONS, &clock).await.unwrap();
        let organization: OrganizationId = clock.next_id();
        let (projects, users): ([ProjectId; 2], [UserId; 2]) =
            ([clock.next_id(), clock.next_id()], [clock.next_id(), clock.next_id()]);
        let payer = |project: usize, user: usize| Payer {
            organization,
            project: projects[project],
            user: Some(users[user]),
            key: clock.next_id(),
        };
        let payers = vec![payer(0, 0), payer(0, 1), payer(1, 0)];
        insert_people(&db, organization, &projects, &users, &payers).await;
        let ledger = Ledger::new(db.clone(), directory.clone(), clock.clone(), Options::default());
        Self { _home: home, directory, db, clock, ledger, organization, payers }
    }

    /// As after a restart: nothing is in memory.
    fn restarted(&self) -> Ledger {
        Ledger::new(self.db.clone(), self.directory.clone(), self.clock.clone(), Options::default())
    }

    fn attempt(&self) -> Attempt {
        self.attempt_of(0)
    }

    fn attempt_of(&self, payer: usize) -> Attempt {
        Attempt {
            id: self.clock.next_id(),
            attempt_of: None,
            payer: self.payers[payer],
            key_number: i64::try_from(payer).unwrap() + 1,
            endpoint: Endpoint::Completions,
            model: Arc::from("m"),
            upstream: tollgate_core::UpstreamId::from_bits(3),
            request: Request { price: Some(PRICE), size: SIZE, ceiling: None },
            input_estimate: 250,
            believable_max: 1_000_000,
            is_final: true,
            clamp_to: None,
        }
    }

    async fn hold(&self) -> Result<Hold, Refused> {
        self.hold_of(0).await
    }

    async fn hold_of(&self, payer: usize) -> Result<Hold, Refused> {
        self.ledger.hold(self.attempt_of(payer), None).await
    }

    async fn dispatched(&self) -> Dispatched {
        self.hold().await.unwrap().dispatch()
    }

    async fn limit(&self, nanos: i64) -> Budget {
        self.set(Scope::Project(self.payers[0].project), &monthly(nanos)).await
    }

    async fn set(&self, scope: Scope, wanted: &Wanted) -> Budget {
        let (clock, wanted, organization) = (self.clock.clone(), wanted.clone(), self.organization);
        let set = self.db.write(move |tx| {
            Box::pin(async move { spend_limit::set(tx, organization, scope, &wanted, &clock).await })
        });
        let budget = set.await.unwrap();
        self.ledger.reconsider();
        budget
    }

    async fn remove(&self, scope: Scope, interval: Interval) {
        let organization = self.organization;
        let removed = self.db.write(move |tx| {
            Box::pin(async move {
                let limit = spend_limit::find(tx, scope, interval).await?.expect("a limit");
                spend_limit::remove(tx, organization, &limit).await
            })
        });
        removed.await.unwrap();
        self.ledger.reconsider();
    }

    async fn budget(&self) -> Budget {
        self.budget_of(Scope::Project(self.payers[0].project), Interval::Month).await
    }

    async fn budget_of(&self, scope: Scope, interval: Interval) -> Budget {
        let now = self.clock.now();
        self.ledger.flush().await;
        self.db
            .read(move |tx| {
                Box::pin(async move {
                    let limit = spend_limit::find(tx, scope, interval).await?.expect("a limit");
                    spend_limit::current(tx, limit, now).await
                })
            })
            .await
            .unwrap()
    }

    async fn column(&self, column: &'static str) -> Vec<String> {
        self.ledger.flush().await;
        let sql = Sql::from("SELECT CAST(").push(column).push(" AS TEXT) FROM attempt ORDER BY id");
        let rows: Vec<Row> =
            self.db.read(|tx| Box::pin(async move { tx.all(sql, &[]).await })).await.unwrap();
        rows.iter().map(|row| row.at::<Option<String>>(0).unwrap().unwrap_or_default()).collect()
    }

    async fn costs(&self) -> Vec<String> {
        self.column("input_cost + output_cost + drained_output_cost").await
    }

    async fn execute(&self, sql: &'static str) {
        self.db.write(move |tx| Box::pin(async move { tx.execute(sql, &[]).await })).await.unwrap();
    }

    /// Every test ends here.
    async fn assert_balanced(&self) -> fsck::Report {
        self.ledger.flush().await;
        let report = fsck::check(&self.db).await.unwrap();
        assert!(report.is_balanced(), "{report}");
        report
    }
}

async fn insert_people(
    db: &Db,
    organization: OrganizationId,
    projects: &[ProjectId],
    users: &[UserId],
    payers: &[Payer],
) {
    let (projects, users, payers) = (projects.to_vec(), users.to_vec(), payers.to_vec());
    db.write(move |tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO organization (id, name, created_at) VALUES ($1, 'o', 0)", &params![organization])
                .await?;
            for project in projects {
                let sql = "INSERT INTO project (id, organization_id, name, is_default, created_at) VALUES ($1, $2, 'p', $3, 0)";
                tx.execute(sql, &params![project, organization, false]).await?;
            }
            for user in users {
                let sql = "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ($1, $1, 'u', $2, 0)";
                tx.execute(sql, &params![user, false]).await?;
            }
            for (payer, number) in payers.iter().zip(1i64..) {
                let sql = "INSERT INTO api_key (id, kind, organization_id, project_id, user_id, name, scopes, redacted_value,
                    created_at, is_active, number) VALUES ($1, 'project', $2, $3, $4, 'k', '', '', 0, $5, $6)";
                let values = params![payer.key, payer.organization, payer.project, payer.user, true, number];
                tx.execute(sql, &values).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
}

fn monthly(nanos: i64) -> Wanted {
    Wanted { interval: Interval::Month, zone: Zone::UTC, amount: Money(nanos), mode: Mode::Enforce }
}

fn every(interval: Interval, zone: &str, nanos: i64) -> Wanted {
    Wanted { interval, zone: Zone::parse(zone).unwrap(), ..monthly(nanos) }
}

fn usage(input: u64, output: u64) -> TokenUsage {
    TokenUsage { input, output, ..TokenUsage::default() }
}

fn reported(input: u64, output: u64) -> Reported {
    Reported { usage: Some(usage(input, output)), ..Reported::default() }
}

fn code(refused: Refused) -> &'static str {
    Error::from(refused).code.unwrap_or("")
}

#[tokio::test]
async fn a_thousand_holds_at_once_are_granted_exactly_as_many_as_fit() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 75 / 2).await;
    let mut waiting = Vec::new();
    for _ in 0..1_000 {
        let (ledger, attempt) = (fixture.ledger.clone(), fixture.attempt());
        waiting.push(tokio::spawn(async move { ledger.hold(attempt, None).await }));
    }
    let mut granted = Vec::new();
    for waiting in waiting {
        match waiting.await.unwrap() {
            Ok(hold) => granted.push(hold.dispatch()),
            Err(refused) => assert_eq!(code(refused), "budget_held_by_inflight"),
        }
    }
    assert_eq!(granted.len(), 37);
    assert_eq!(fixture.budget().await.held, Money(BOUND * 37));
    drop(granted);
    assert_eq!(fixture.budget().await.settled, Money(BOUND * 37));
    assert_eq!(code(fixture.hold().await.err().unwrap()), "project_spend_limit_exceeded");
    assert!(fixture.budget().await.is_enforcing());
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn each_way_to_end_a_hold_leaves_its_own_record() {
    let fixture = Fixture::new().await;
    fixture.dispatched().await.settle(reported(10, 20));
    fixture.dispatched().await.void();
    drop(fixture.hold().await.unwrap());
    drop(fixture.dispatched().await);
    let mut seen = fixture.dispatched().await;
    seen.observe(usage(250, 7));
    drop(seen);
    fixture.dispatched().await.settle(Reported::default());
    fixture.dispatched().await.cancel(true);
    assert_eq!(
        fixture.column("state").await,
        ["settled", "voided", "voided", "settled", "settled", "settled", "settled"]
    );
    assert_eq!(
        fixture.column("usage_source").await,
        ["upstream", "", "", "bound", "observed", "bound", "observed"]
    );
    assert_eq!(fixture.costs().await, ["30000", "0", "0", "2000003", "257000", "2000003", "250000"]);
    assert_eq!(fixture.assert_balanced().await.open_holds, 0);
}

#[tokio::test]
async fn under_a_hard_limit_unknown_usage_is_charged_at_the_bound() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 2).await;
    let mut seen = fixture.dispatched().await;
    seen.observe(usage(250, 3));
    drop(seen);
    assert_eq!(fixture.column("usage_source").await, ["bound"]);
    assert_eq!(fixture.budget().await.settled, Money(BOUND));
    // An upstream that stops its bill with the connection is another thing: only the input is not known.
    let mut cancelled = fixture.dispatched().await;
    cancelled.observe(usage(250, 3));
    cancelled.cancel(true);
    assert_eq!(fixture.column("usage_source").await, ["bound", "observed"]);
    assert_eq!(fixture.budget().await.settled, Money(BOUND + 1_003_000));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn under_a_hard_limit_a_cancelled_answer_that_did_not_show_is_charged_at_the_bound() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 3).await;
    fixture.dispatched().await.cancel(true);
    let mut hidden = fixture.dispatched().await;
    hidden.observe(usage(250, 3));
    hidden.cancel(false);
    assert_eq!(fixture.column("usage_source").await, ["bound", "bound"]);
    assert_eq!(fixture.budget().await.settled, Money(BOUND * 2));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_limit_set_while_a_request_is_in_flight_decides_how_its_unknown_usage_is_charged() {
    let fixture = Fixture::new().await;
    let mut open = fixture.dispatched().await;
    open.observe(usage(250, 3));
    fixture.ledger.flush().await;
    fixture.limit(BOUND * 2).await;
    drop(open);
    assert_eq!(fixture.column("usage_source").await, ["bound"]);
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_new_limit_counts_what_was_spent_and_is_held_in_its_month() {
    let fixture = Fixture::new().await;
    fixture.dispatched().await.settle(reported(1_000, 0));
    fixture.clock.advance(Duration::from_hours(120));
    fixture.dispatched().await.settle(reported(0, 500));
    let open = fixture.dispatched().await;
    fixture.ledger.flush().await;
    let budget = fixture.limit(BOUND * 2).await;
    assert_eq!((budget.settled, budget.held), (Money(500_000), Money(BOUND)));
    open.settle(reported(1, 1));
    assert_eq!(fixture.budget().await.settled, Money(502_000));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_hold_belongs_to_the_month_of_its_admission() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND).await;
    let open = fixture.dispatched().await;
    assert!(fixture.hold().await.is_err());
    fixture.clock.advance(Duration::from_hours(120));
    let next_month = fixture.dispatched().await;
    open.settle(reported(1_000, 1_000));
    assert_eq!(fixture.budget().await.held, Money(BOUND));
    assert_eq!(fixture.budget().await.settled, Money::ZERO);
    next_month.settle(reported(3, 0));
    assert_eq!(fixture.budget().await.settled, Money(3_000));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn raising_and_removing_a_limit_lets_traffic_through_and_lowering_stops_it() {
    let fixture = Fixture::new().await;
    fixture.limit(1).await;
    assert_eq!(code(fixture.hold().await.err().unwrap()), "project_spend_limit_exceeded");
    assert!(!fixture.limit(BOUND).await.is_enforcing());
    fixture.dispatched().await.settle(reported(1_000, 0));
    fixture.ledger.flush().await;
    fixture.limit(BOUND * 2).await;
    let open = fixture.dispatched().await;
    fixture.limit(1_000_000).await;
    assert_eq!(code(fixture.hold().await.err().unwrap()), "project_spend_limit_exceeded");
    fixture.remove(Scope::Project(fixture.payers[0].project), Interval::Month).await;
    drop(fixture.hold().await.unwrap());
    open.settle(reported(1, 1));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_hold_is_taken_on_every_level_or_on_none_and_the_widest_refuses() {
    let fixture = Fixture::new().await;
    let Payer { organization, project, user, key } = fixture.payers[0];
    let user = Scope::User(organization, user.unwrap());
    let scopes = [Scope::Organization(organization), Scope::Project(project), user, Scope::Key(key)];
    let codes = [
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "user_spend_limit_exceeded",
        "api_key_spend_limit_exceeded",
    ];
    for scope in scopes {
        fixture.set(scope, &monthly(BOUND)).await;
    }
    let open = fixture.dispatched().await;
    for scope in scopes {
        assert_eq!(fixture.budget_of(scope, Interval::Month).await.held, Money(BOUND));
    }
    open.settle(reported(1_000, 1_000));
    // Every level is spent, and is named until it is raised: the widest first.
    for (scope, expected) in scopes.into_iter().zip(codes) {
        assert_eq!(code(fixture.hold().await.err().unwrap()), expected);
        fixture.set(scope, &monthly(BOUND * 10)).await;
    }
    drop(fixture.hold().await.unwrap());
    let budget = fixture.budget_of(scopes[3], Interval::Month).await;
    assert_eq!((budget.settled, budget.held), (Money(2_000_000), Money::ZERO));
    // Another key of the same project, and another project of the same person, count where they belong.
    fixture.hold_of(1).await.unwrap().dispatch().settle(reported(1, 0));
    fixture.hold_of(2).await.unwrap().dispatch().settle(reported(2, 0));
    let fixture_ = &fixture;
    let settled =
        |scope| async move { fixture_.budget_of(scope, Interval::Month).await.settled.nanos() - 2_000_000 };
    assert_eq!(settled(scopes[0]).await, 3_000);
    assert_eq!(settled(scopes[1]).await, 1_000);
    assert_eq!(settled(scopes[2]).await, 2_000);
    assert_eq!(settled(scopes[3]).await, 0);
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_limit_set_while_the_clock_was_put_back_counts_what_is_later() {
    let fixture = Fixture::new().await;
    let scope = Scope::Project(fixture.payers[0].project);
    let ahead = Clock::manual(fixture.clock.now().plus_seconds(86_400));
    let later = Attempt { id: ahead.next_id(), ..fixture.attempt() };
    fixture.ledger.hold(later, None).await.unwrap().dispatch().settle(reported(1_000, 500));
    fixture.ledger.flush().await;
    fixture.set(scope, &every(Interval::Day, "UTC", BOUND * 3)).await;
    fixture.clock.advance(Duration::from_hours(25));
    fixture.dispatched().await.settle(reported(1_000, 0));
    let budget = fixture.budget_of(scope, Interval::Day).await;
    assert_eq!(budget.settled, Money(1_500_000 + 1_000_000));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn limits_by_the_day_the_week_and_the_month_count_side_by_side_in_their_zones() {
    let fixture = Fixture::new().await; // 22:26 in Berlin
    let scope = Scope::Project(fixture.payers[0].project);
    fixture.set(scope, &every(Interval::Day, "Europe/Berlin", BOUND)).await;
    fixture.set(scope, &every(Interval::Week, "UTC", BOUND * 2)).await;
    fixture.set(scope, &monthly(BOUND * 3)).await;
    fixture.dispatched().await.settle(reported(1_000, 1_000));
    let refused = Error::from(fixture.hold().await.err().unwrap());
    assert!(
        refused.message.contains("a day") && refused.message.contains("Europe/Berlin"),
        "{}",
        refused.message
    );
    fixture.clock.advance(Duration::from_hours(2)); // Friday in Berlin, Thursday in UTC
    fixture.dispatched().await.settle(reported(1_000, 1_000));
    fixture.clock.advance(Duration::from_hours(24)); // Saturday, and the week is spent
    assert!(Error::from(fixture.hold().await.err().unwrap()).message.contains("a week"));
    fixture.clock.advance(Duration::from_hours(50)); // Monday, 1 June
    fixture.dispatched().await.settle(reported(1_000, 1_000));
    assert_eq!(fixture.budget().await.settled, Money(2_000_000), "June");
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_new_zone_counts_anew_to_the_minute_what_was_spent_in_its_day() {
    // 18:00 in Kathmandu, whose days begin at 18:15 UTC.
    let fixture = Fixture::starting(Timestamp(1_780_056_900)).await; // 2026-05-29T12:15:00Z
    let scope = Scope::Project(fixture.payers[0].project);
    for (minutes, tokens) in [(0, 1), (359, 10), (1, 100), (1, 1_000), (120, 10_000)] {
        fixture.clock.advance(Duration::from_mins(minutes));
        fixture.dispatched().await.settle(reported(tokens, 0));
    }
    let open = fixture.dispatched().await; // at 20:16
    fixture.ledger.flush().await;
    let spent = |budget: Budget| (budget.settled.nanos() / 1_000, budget.held.nanos());
    let kathmandu = fixture.set(scope, &every(Interval::Day, "Asia/Kathmandu", BOUND * 100)).await;
    assert_eq!(spent(kathmandu), (11_100, BOUND), "from 18:15 on");
    let utc = fixture.set(scope, &every(Interval::Day, "UTC", BOUND * 100)).await;
    assert_eq!(spent(utc), (11_111, BOUND));
    let tokyo = fixture.set(scope, &every(Interval::Day, "Asia/Tokyo", BOUND * 100)).await;
    assert_eq!(spent(tokyo), (11_110, BOUND), "from 15:00 UTC on");
    open.settle(reported(1, 0));
    assert_eq!(fixture.budget_of(scope, Interval::Day).await.settled, Money(11_111_000));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_limit_that_observes_refuses_nothing_counts_what_it_would_and_can_be_made_to_enforce() {
    let fixture = Fixture::new().await;
    let scope = Scope::Project(fixture.payers[0].project);
    fixture.set(scope, &Wanted { mode: Mode::Observe, ..monthly(BOUND) }).await;
    let hold = fixture.hold().await.unwrap();
    assert_eq!(hold.remaining(), None, "it is no hard limit");
    hold.dispatch().settle(reported(1_000, 1_000));
    fixture.dispatched().await.settle(reported(1_000, 1_000));
    let budget = fixture.budget().await;
    assert_eq!((budget.settled, budget.observed, budget.is_enforcing()), (Money(4_000_000), 1, false));
    let enforced = fixture.limit(BOUND).await;
    assert!(enforced.is_enforcing(), "all that was spent counts");
    assert!(fixture.hold().await.is_err());
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn what_has_no_price_is_recorded_without_a_limit_and_refused_under_one() {
    let fixture = Fixture::new().await;
    let request = Request { price: None, ..fixture.attempt().request };
    let unpriced = Attempt { request, ..fixture.attempt() };
    fixture.ledger.hold(unpriced.clone(), None).await.unwrap().dispatch().settle(reported(5, 6));
    assert_eq!(fixture.column("output_tokens").await, ["6"]);
    assert_eq!(fixture.column("is_priced").await, ["0"]);
    fixture.limit(i64::MAX).await;
    let unpriced = Attempt { id: fixture.clock.next_id(), ..unpriced };
    assert_eq!(code(fixture.ledger.hold(unpriced, None).await.err().unwrap()), "model_price_unknown");
    let size = Size { output_each: None, ..SIZE };
    let endless = Attempt { request: Request { size, ..fixture.attempt().request }, ..fixture.attempt() };
    assert_eq!(code(fixture.ledger.hold(endless, None).await.err().unwrap()), "cost_not_boundable");
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_request_without_a_bound_that_is_in_flight_holds_all_of_a_limit_set_meanwhile() {
    let fixture = Fixture::new().await;
    let size = Size { output_each: None, ..SIZE };
    let endless = Attempt { request: Request { size, ..fixture.attempt().request }, ..fixture.attempt() };
    let open = fixture.ledger.hold(endless, None).await.unwrap().dispatch();
    fixture.ledger.flush().await;
    fixture.limit(BOUND * 10).await;
    assert_eq!(code(fixture.hold().await.err().unwrap()), "budget_held_by_inflight");
    open.settle(reported(1_000, 5_000));
    assert_eq!(fixture.budget().await.settled, Money(6_000_000));
    drop(fixture.hold().await.unwrap());
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn an_actual_above_its_bound_is_charged_in_full_flagged_and_counted() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 3).await;
    fixture.dispatched().await.settle(Reported { text: Some("{}".to_owned()), ..reported(2_000, 2_500) });
    assert_eq!(fixture.budget().await.settled, Money(4_500_000));
    assert_eq!(fixture.column("flags").await, ["above_bound"]);
    assert_eq!(fixture.column("reported_usage").await, ["{}"]);
    let row: Row = fixture
        .db
        .read(|tx| {
            Box::pin(
                tx.one("SELECT violations, excess, input_tokens, output_tokens FROM bound_violation", &[]),
            )
        })
        .await
        .unwrap();
    let figures: Vec<i64> = (0..4).map(|at| row.at(at).unwrap()).collect();
    assert_eq!(figures, [1, 4_500_000 - BOUND, 1_000, 1_500]);
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_report_that_nobody_can_believe_is_kept_and_charged_at_the_bound() {
    let fixture = Fixture::new().await;
    let absurd = Reported { text: Some("absurd".to_owned()), ..reported(5, 900_000_000) };
    fixture.dispatched().await.settle(absurd);
    let flags = Flags { absurd: true, ..Flags::default() };
    fixture.dispatched().await.settle(Reported { usage: None, flags, text: Some("negative".to_owned()) });
    assert_eq!(fixture.column("usage_source").await, ["bound", "bound"]);
    assert_eq!(fixture.column("flags").await, ["usage_absurd", "usage_absurd"]);
    assert_eq!(fixture.column("reported_usage").await, ["absurd", "negative"]);
    assert_eq!(fixture.costs().await, ["2000003", "2000003"]);
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn money_that_is_only_held_is_waited_for_first_come_first_served() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND).await;
    let open = fixture.dispatched().await;
    let patient = |fixture: &Fixture| {
        let (ledger, attempt) = (fixture.ledger.clone(), fixture.attempt());
        tokio::spawn(async move { ledger.hold(attempt, Some(Duration::from_mins(10))).await })
    };
    let (first, second) = (patient(&fixture), patient(&fixture));
    tokio::task::yield_now().await;
    fixture.ledger.flush().await;
    // Whoever cannot wait does not overtake those who do, and one that could never fit is told so at once.
    assert_eq!(code(fixture.hold().await.err().unwrap()), "budget_held_by_inflight");
    open.void();
    let got = first.await.unwrap().unwrap();
    assert_eq!(got.remaining(), Some(Money::ZERO));
    assert!(!second.is_finished());
    got.dispatch().settle(reported(1, 0));
    // What was given back is not enough any more: a nano-dollar short is exhausted.
    assert_eq!(code(second.await.unwrap().err().unwrap()), "project_spend_limit_exceeded");
    fixture.assert_balanced().await;
}

#[tokio::test(start_paused = true)]
async fn patience_has_an_end_and_whoever_is_gone_does_not_stand_in_the_way() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND).await;
    let open = fixture.dispatched().await;
    let ledger = fixture.ledger.clone();
    let house = tokio::spawn(async move { ledger.keep_house().await });
    let (ledger, attempt) = (fixture.ledger.clone(), fixture.attempt());
    let gone = tokio::spawn(async move { ledger.hold(attempt, Some(Duration::from_mins(10))).await });
    fixture.ledger.flush().await;
    gone.abort();
    let refused =
        fixture.ledger.hold(fixture.attempt(), Some(Duration::from_millis(1_500))).await.err().unwrap();
    assert_eq!(code(refused), "budget_held_by_inflight");
    open.void();
    fixture.hold().await.unwrap().dispatch().settle(reported(1, 1));
    house.abort();
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn raising_a_limit_lets_those_through_who_wait() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND).await;
    let open = fixture.dispatched().await;
    let (ledger, attempt) = (fixture.ledger.clone(), fixture.attempt());
    let waiting = tokio::spawn(async move { ledger.hold(attempt, Some(Duration::from_mins(10))).await });
    tokio::task::yield_now().await;
    fixture.ledger.flush().await;
    fixture.limit(BOUND * 2).await;
    drop(waiting.await.unwrap().unwrap());
    drop(open);
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_request_that_may_be_clamped_gets_the_output_that_fits() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND + 1_500_003).await;
    fixture.dispatched().await.settle(reported(1_000, 1_000));
    let clamping = |floor| Attempt { clamp_to: Some(floor), ..fixture.attempt() };
    assert!(fixture.ledger.hold(clamping(501), None).await.is_err());
    let hold = fixture.ledger.hold(clamping(500), None).await.unwrap();
    let granted = *hold.granted();
    assert_eq!((granted.is_clamped, granted.request.size.output_each), (true, Some(500)));
    hold.dispatch().settle(Reported::default());
    assert_eq!(fixture.column("clamped_to").await, ["", "500"]);
    assert_eq!(fixture.costs().await, ["2000000", "1500003"], "at the bound of what it was clamped to");
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_waits_leaves_no_hold() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 10).await;
    for _ in 0..50 {
        let (ledger, attempt) = (fixture.ledger.clone(), fixture.attempt());
        let waiting = tokio::spawn(async move { ledger.hold(attempt, None).await.map(|_| ()) });
        tokio::task::yield_now().await;
        waiting.abort();
    }
    fixture.ledger.flush().await;
    fixture.ledger.flush().await;
    assert_eq!(fixture.budget().await.held, Money::ZERO);
    assert_eq!(fixture.assert_balanced().await.open_holds, 0);
}

#[tokio::test]
async fn after_a_crash_open_holds_are_settled_at_the_bound_and_say_so() {
    let fixture = Fixture::new().await;
    let unlimited = fixture.dispatched().await;
    fixture.ledger.flush().await;
    std::mem::forget(unlimited);
    assert_eq!(recovery::settle_open_holds(&fixture.db, &fixture.clock).await.unwrap(), 1);
    fixture.limit(BOUND * 10).await;
    std::mem::forget(fixture.dispatched().await);
    std::mem::forget(fixture.hold().await.unwrap());
    let before = fixture.budget().await;
    assert_eq!((before.settled, before.held), (Money(1_000_002), Money(BOUND * 2)));

    assert_eq!(recovery::settle_open_holds(&fixture.db, &fixture.clock).await.unwrap(), 2);
    let after = fixture.budget().await;
    assert_eq!((after.settled, after.held), (Money(1_000_002 + BOUND * 2), Money::ZERO));
    assert_eq!(fixture.column("is_recovered").await, ["1", "1", "1"]);
    assert_eq!(fixture.column("output_tokens").await, ["0", "1000", "1000"]);
    assert_eq!(recovery::settle_open_holds(&fixture.db, &fixture.clock).await.unwrap(), 0);
    let ledger = fixture.restarted();
    drop(ledger.hold(fixture.attempt(), None).await.unwrap());
    ledger.flush().await;
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_nearly_full_disk_admits_nothing_new_and_still_ends_what_is_open() {
    let fixture = Fixture::new().await;
    let open = fixture.dispatched().await;
    let full = Options { free_bytes_min: u64::MAX, ..Options::default() };
    let ledger = Ledger::new(fixture.db.clone(), fixture.directory.clone(), fixture.clock.clone(), full);
    let refused = Error::from(ledger.hold(fixture.attempt(), None).await.err().unwrap());
    assert_eq!((refused.status(), refused.code), (503, Some("storage_low")));
    open.settle(reported(1, 1));
    assert_eq!(fixture.assert_balanced().await.attempts, 1);
}

#[tokio::test]
async fn a_batch_that_cannot_be_written_refuses_its_holds_and_keeps_its_ends() {
    let fixture = Fixture::new().await;
    let open = fixture.dispatched().await;
    fixture.execute("ALTER TABLE usage_rollup RENAME TO hidden").await;
    open.settle(reported(1, 1));
    let refused = Error::from(fixture.hold().await.err().unwrap());
    assert_eq!(refused.status(), 503);
    fixture.execute("ALTER TABLE hidden RENAME TO usage_rollup").await;
    // The end that could not be written goes with the next batch.
    drop(fixture.hold().await.unwrap());
    assert_eq!(fixture.column("state").await, ["settled", "voided"]);
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn corrections_and_refunds_are_further_rows_that_land_where_the_request_was_counted() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 10).await;
    let attempt = fixture.attempt();
    let id = attempt.id;
    fixture.ledger.hold(attempt, None).await.unwrap().dispatch().settle(Reported::default());
    fixture.ledger.flush().await;
    fixture.clock.advance(Duration::from_hours(24 * 40));
    let adjust = |kind, change| {
        let (clock, organization) = (fixture.clock.clone(), fixture.organization);
        let wanted = adjustment::Wanted { kind, change, reason: "r".to_owned(), by: None };
        fixture.db.write(move |tx| {
            Box::pin(async move { adjustment::adjust(tx, &clock, organization, id, &wanted).await })
        })
    };
    let to = Change::To { cost: Money(500_000), input_tokens: Some(300), output_tokens: Some(200) };
    let correction = adjust(Kind::Correction, to).await.unwrap();
    assert_eq!((correction.cost, correction.input_tokens), (Money(500_000 - BOUND), -700));
    assert_eq!(adjust(Kind::Refund, Change::Less(Money(100_000))).await.unwrap().cost, Money(-100_000));
    let beyond = adjust(Kind::Refund, Change::Less(Money(400_001))).await.unwrap_err();
    assert_eq!(beyond.param.as_deref(), Some("amount"));
    adjust(Kind::Refund, Change::Less(Money(400_000))).await.unwrap();
    assert_eq!(fixture.costs().await, ["2000003"], "its own row stays as it was");
    let rollups: Row = fixture
        .db
        .read(|tx| {
            Box::pin(tx.one(
                "SELECT SUM(input_cost + output_cost + adjusted_cost), SUM(input_tokens), COUNT(*), MAX(bucket_start)
                 FROM usage_rollup WHERE width = 86400",
                &[],
            ))
        })
        .await
        .unwrap();
    let figures: Vec<i64> = (0..4).map(|at| rollups.at(at).unwrap()).collect();
    assert_eq!(figures, [0, 300, 1, id.created_at().floor_to(86_400).0]);
    assert_eq!(fixture.budget().await.settled, Money::ZERO, "the month it was made in is not touched");
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_limit_can_be_tried_on_what_was_spent() {
    let fixture = Fixture::new().await;
    let project = fixture.payers[0].project;
    let since = fixture.clock.now();
    for _ in 0..5 {
        let open = fixture.dispatched().await;
        fixture.clock.advance(Duration::from_mins(1));
        open.settle(reported(1_000, 1_000));
        fixture.ledger.flush().await;
    }
    fixture.clock.advance(Duration::from_hours(24));
    fixture.dispatched().await.settle(reported(1_000, 1_000));
    fixture.ledger.flush().await;
    let (clock, now) = (fixture.clock.clone(), fixture.clock.now());
    let limit = tollgate_core::budget::Limit {
        id: clock.next_id(),
        scope: Scope::Project(project),
        interval: Interval::Day,
        zone: Zone::UTC,
        amount: Money(BOUND * 2),
        mode: Mode::Enforce,
        since,
    };
    let tried = fixture
        .db
        .read(move |tx| Box::pin(async move { replay::rehearse(tx, limit, since, now, 2).await }))
        .await
        .unwrap();
    assert_eq!((tried.requests, tried.refused_requests, tried.refused_cost), (6, 3, Money(6_000_000)));
    assert_eq!(tried.periods.iter().map(|period| period.refused_requests).collect::<Vec<_>>(), [3, 0]);
    assert_eq!((tried.data.len(), tried.has_more), (2, true));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn fsck_finds_what_was_changed_behind_its_back() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 10).await;
    fixture.dispatched().await.settle(reported(10, 20));
    fixture.assert_balanced().await;
    let tamperings = [
        ("UPDATE budget SET settled = settled + 1", "UPDATE budget SET settled = settled - 1"),
        ("UPDATE budget SET held = 5", "UPDATE budget SET held = 0"),
        ("UPDATE budget SET unbounded = 1", "UPDATE budget SET unbounded = 0"),
        ("UPDATE attempt SET input_cost = input_cost + 1", "UPDATE attempt SET input_cost = input_cost - 1"),
        ("UPDATE attempt SET state = 'held'", "UPDATE attempt SET state = 'settled'"),
        ("UPDATE usage_rollup SET requests = 2 WHERE width = 86400", "UPDATE usage_rollup SET requests = 1"),
        (
            "UPDATE usage_rollup SET input_tokens = 0 WHERE width = 3600",
            "UPDATE usage_rollup SET input_tokens = 10",
        ),
        // Moving money from one kind of token to another leaves every total as it was.
        (
            "UPDATE usage_rollup SET input_cost = input_cost - 5, output_cost = output_cost + 5",
            "UPDATE usage_rollup SET input_cost = input_cost + 5, output_cost = output_cost - 5",
        ),
        (
            "INSERT INTO adjustment SELECT 'adj', id, 'refund', -1, 0, 0, 'r', NULL, 0 FROM attempt",
            "DELETE FROM adjustment",
        ),
    ];
    for (tamper, repair) in tamperings {
        fixture.execute(tamper).await;
        assert!(!fsck::check(&fixture.db).await.unwrap().is_balanced(), "{tamper}");
        fixture.execute(repair).await;
        fixture.assert_balanced().await;
    }
}
