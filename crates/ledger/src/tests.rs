//! The ledger over a real database: what it grants, how holds end, and that the books balance after all of it.

use std::time::Duration;

use tollgate_core::price::{Price, Rates, TokenUsage};
use tollgate_core::{Clock, Error, Money, Principal, ProjectId, Result, Timestamp, UnitPrice};
use tollgate_store::{DataDir, Db, MIGRATIONS, Options as DbOptions, Row, params};

use crate::spend_limit::{self, OpenBudget, Scope};
use crate::{Attempt, Dispatched, Endpoint, Hold, Ledger, Options, fsck, recovery};

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

/// What a request of the tests costs at most: 1,000 tokens each way, and two nano-dollars for rounding.
const BOUND: i64 = 2_000_002;

struct Fixture {
    _home: tempfile::TempDir,
    directory: DataDir,
    db: Db,
    clock: Clock,
    ledger: Ledger,
    project: ProjectId,
}

impl Fixture {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = DataDir::new(home.path());
        let clock = Clock::manual(Timestamp(1_780_000_000)); // 2026-05-28
        directory.create().unwrap();
        let db = directory.open(DbOptions { create: true, read_only: false }).unwrap();
        db.migrate(&directory, MIGRATIONS, &clock).await.unwrap();
        let project = clock.next_id();
        let organization: tollgate_core::OrganizationId = clock.next_id();
        db.write(move |tx| {
            Box::pin(async move {
                tx.execute("INSERT INTO organization (id, name, created_at) VALUES ($1, 'o', 0)", &params![organization])
                    .await?;
                tx.execute(
                    "INSERT INTO project (id, organization_id, name, is_default, created_at) VALUES ($1, $2, 'p', $3, 0)",
                    &params![project, organization, false],
                )
                .await
            })
        })
        .await
        .unwrap();
        let ledger = Ledger::new(db.clone(), directory.clone(), clock.clone(), Options { free_bytes_min: 0 });
        Self { _home: home, directory, db, clock, ledger, project }
    }

    async fn organization(&self) -> tollgate_core::OrganizationId {
        let row: Row = self.db.read(|tx| Box::pin(tx.one("SELECT id FROM organization", &[]))).await.unwrap();
        row.at(0).unwrap()
    }

    async fn attempt(&self) -> Attempt {
        Attempt {
            id: self.clock.next_id(),
            attempt_of: None,
            organization: self.organization().await,
            project: self.project,
            key: tollgate_core::KeyId::from_bits(1),
            owner: Principal::User(tollgate_core::UserId::from_bits(2)),
            endpoint: Endpoint::Completions,
            model: "m".to_owned(),
            upstream: tollgate_core::UpstreamId::from_bits(3),
            price: Some(PRICE),
            input_max: Some(1_000),
            output_max: Some(1_000),
            input_estimate: 250,
        }
    }

    async fn hold(&self) -> Result<Hold> {
        self.ledger.hold(self.attempt().await).await
    }

    async fn dispatched(&self) -> Dispatched {
        self.hold().await.unwrap().dispatch()
    }

    async fn limit(&self, nanos: i64) -> OpenBudget {
        let (scope, clock) = (Scope::Project(self.project), self.clock.clone());
        self.db
            .write(move |tx| Box::pin(async move { spend_limit::set(tx, scope, Money(nanos), &clock).await }))
            .await
            .unwrap()
    }

    async fn budget(&self) -> OpenBudget {
        let (scope, now) = (Scope::Project(self.project), self.clock.now());
        self.ledger.flush().await;
        self.db
            .read(move |tx| Box::pin(async move { spend_limit::current(tx, scope, now).await }))
            .await
            .unwrap()
            .expect("a limit")
    }

    async fn column(&self, column: &'static str) -> Vec<String> {
        self.ledger.flush().await;
        let sql =
            tollgate_store::Sql::from("SELECT CAST(").push(column).push(" AS TEXT) FROM attempt ORDER BY id");
        let rows: Vec<Row> =
            self.db.read(|tx| Box::pin(async move { tx.all(sql, &[]).await })).await.unwrap();
        rows.iter().map(|row| row.at::<Option<String>>(0).unwrap().unwrap_or_default()).collect()
    }

    /// Every test ends here.
    async fn assert_balanced(&self) -> fsck::Report {
        self.ledger.flush().await;
        let report = fsck::check(&self.db).await.unwrap();
        assert!(report.is_balanced(), "{report}");
        report
    }
}

fn usage(input: u64, output: u64) -> TokenUsage {
    TokenUsage { input, output, ..TokenUsage::default() }
}

fn code(error: &Error) -> &'static str {
    error.code.unwrap_or("")
}

#[tokio::test]
async fn a_thousand_holds_at_once_are_granted_exactly_as_many_as_fit() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 75 / 2).await;
    let mut waiting = Vec::new();
    for _ in 0..1_000 {
        let (ledger, attempt) = (fixture.ledger.clone(), fixture.attempt().await);
        waiting.push(tokio::spawn(async move { ledger.hold(attempt).await }));
    }
    let mut granted = Vec::new();
    for waiting in waiting {
        match waiting.await.unwrap() {
            Ok(hold) => granted.push(hold.dispatch()),
            Err(error) => assert_eq!(code(&error), "budget_held_by_inflight"),
        }
    }
    assert_eq!(granted.len(), 37);
    assert_eq!(fixture.budget().await.held, Money(BOUND * 37));
    drop(granted);
    assert_eq!(fixture.budget().await.settled, Money(BOUND * 37));
    assert_eq!(code(&fixture.hold().await.err().unwrap()), "project_spend_limit_exceeded");
    assert!(fixture.budget().await.is_enforcing());
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn each_way_to_end_a_hold_leaves_its_own_record() {
    let fixture = Fixture::new().await;
    fixture.dispatched().await.settle(usage(10, 20));
    fixture.dispatched().await.void();
    drop(fixture.hold().await.unwrap());
    drop(fixture.dispatched().await);
    let mut seen = fixture.dispatched().await;
    (0..7).for_each(|_| seen.observe(3));
    drop(seen);
    assert_eq!(fixture.column("state").await, ["settled", "voided", "voided", "settled", "settled"]);
    assert_eq!(fixture.column("usage_source").await, ["upstream", "", "", "bound", "observed"]);
    assert_eq!(fixture.column("cost").await, ["30000", "0", "0", "2000002", "257000"]);
    assert_eq!(fixture.assert_balanced().await.open_holds, 0);
}

#[tokio::test]
async fn under_a_hard_limit_unknown_usage_is_charged_at_the_bound() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND).await;
    let mut seen = fixture.dispatched().await;
    seen.observe(3);
    drop(seen);
    assert_eq!(fixture.column("usage_source").await, ["bound"]);
    assert_eq!(fixture.budget().await.settled, Money(BOUND));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_new_limit_counts_what_was_spent_and_is_held_in_its_month() {
    let fixture = Fixture::new().await;
    fixture.dispatched().await.settle(usage(1_000, 0));
    fixture.clock.advance(Duration::from_hours(120));
    fixture.dispatched().await.settle(usage(0, 500));
    let open = fixture.dispatched().await;
    fixture.ledger.flush().await;
    let budget = fixture.limit(BOUND * 2).await;
    assert_eq!((budget.settled, budget.held), (Money(500_000), Money(BOUND)));
    open.settle(usage(1, 1));
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
    open.settle(usage(1_000, 1_000));
    assert_eq!(fixture.budget().await.held, Money(BOUND));
    assert_eq!(fixture.budget().await.settled, Money::ZERO);
    next_month.settle(usage(3, 0));
    assert_eq!(fixture.budget().await.settled, Money(3_000));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn raising_and_removing_a_limit_lets_traffic_through_and_lowering_stops_it() {
    let fixture = Fixture::new().await;
    fixture.limit(1).await;
    assert_eq!(code(&fixture.hold().await.err().unwrap()), "project_spend_limit_exceeded");
    assert!(!fixture.limit(BOUND).await.is_enforcing());
    fixture.dispatched().await.settle(usage(1_000, 0));
    fixture.ledger.flush().await;
    fixture.limit(BOUND * 2).await;
    let open = fixture.dispatched().await;
    fixture.limit(1_000_000).await;
    assert_eq!(code(&fixture.hold().await.err().unwrap()), "project_spend_limit_exceeded");
    let scope = Scope::Project(fixture.project);
    let removed =
        fixture.db.write(move |tx| Box::pin(async move { spend_limit::remove(tx, scope).await })).await;
    assert!(removed.unwrap());
    drop(fixture.hold().await.unwrap());
    open.settle(usage(1, 1));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn what_has_no_price_is_recorded_without_a_limit_and_refused_under_one() {
    let fixture = Fixture::new().await;
    let unpriced = Attempt { price: None, ..fixture.attempt().await };
    fixture.ledger.hold(unpriced.clone()).await.unwrap().dispatch().settle(usage(5, 6));
    assert_eq!(fixture.column("output_tokens").await, ["6"]);
    assert_eq!(fixture.column("is_priced").await, ["0"]);
    fixture.limit(i64::MAX).await;
    let unpriced = Attempt { id: fixture.clock.next_id(), ..unpriced };
    assert_eq!(code(&fixture.ledger.hold(unpriced).await.err().unwrap()), "model_price_unknown");
    let endless = Attempt { output_max: None, ..fixture.attempt().await };
    assert_eq!(code(&fixture.ledger.hold(endless).await.err().unwrap()), "cost_not_boundable");
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn an_actual_above_its_bound_is_charged_in_full() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 3).await;
    fixture.dispatched().await.settle(usage(2_000, 2_000));
    assert_eq!(fixture.budget().await.settled, Money(4_000_000));
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_waits_leaves_no_hold() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 10).await;
    for _ in 0..50 {
        let (ledger, attempt) = (fixture.ledger.clone(), fixture.attempt().await);
        let waiting = tokio::spawn(async move { ledger.hold(attempt).await.map(|_| ()) });
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
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn a_nearly_full_disk_admits_nothing_new_and_still_ends_what_is_open() {
    let fixture = Fixture::new().await;
    let open = fixture.dispatched().await;
    let full = Options { free_bytes_min: u64::MAX };
    let ledger = Ledger::new(fixture.db.clone(), fixture.directory.clone(), fixture.clock.clone(), full);
    let refused = ledger.hold(fixture.attempt().await).await.err().unwrap();
    assert_eq!((refused.status(), code(&refused)), (503, "storage_low"));
    open.settle(usage(1, 1));
    assert_eq!(fixture.assert_balanced().await.attempts, 1);
}

#[tokio::test]
async fn a_batch_that_cannot_be_written_refuses_its_holds_and_keeps_its_ends() {
    let fixture = Fixture::new().await;
    let open = fixture.dispatched().await;
    let rename =
        |from: &'static str| fixture.db.write(move |tx| Box::pin(async move { tx.execute(from, &[]).await }));
    rename("ALTER TABLE usage_rollup RENAME TO hidden").await.unwrap();
    open.settle(usage(1, 1));
    let refused = fixture.hold().await.err().unwrap();
    assert_eq!(refused.status(), 503);
    rename("ALTER TABLE hidden RENAME TO usage_rollup").await.unwrap();
    // The end that could not be written goes with the next batch.
    drop(fixture.hold().await.unwrap());
    assert_eq!(fixture.column("state").await, ["settled", "voided"]);
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn fsck_finds_what_was_changed_behind_its_back() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 10).await;
    fixture.dispatched().await.settle(usage(10, 20));
    fixture.assert_balanced().await;
    let tamperings = [
        ("UPDATE budget SET settled = settled + 1", "UPDATE budget SET settled = settled - 1"),
        ("UPDATE budget SET held = 5", "UPDATE budget SET held = 0"),
        ("UPDATE attempt SET cost = cost + 1", "UPDATE attempt SET cost = cost - 1"),
        ("UPDATE attempt SET state = 'held'", "UPDATE attempt SET state = 'settled'"),
        ("UPDATE usage_rollup SET requests = 2 WHERE width = 86400", "UPDATE usage_rollup SET requests = 1"),
        (
            "UPDATE usage_rollup SET input_tokens = 0 WHERE width = 3600",
            "UPDATE usage_rollup SET input_tokens = 10",
        ),
    ];
    for (tamper, repair) in tamperings {
        fixture.db.write(move |tx| Box::pin(async move { tx.execute(tamper, &[]).await })).await.unwrap();
        assert!(!fsck::check(&fixture.db).await.unwrap().is_balanced(), "{tamper}");
        fixture.db.write(move |tx| Box::pin(async move { tx.execute(repair, &[]).await })).await.unwrap();
        fixture.assert_balanced().await;
    }
}
