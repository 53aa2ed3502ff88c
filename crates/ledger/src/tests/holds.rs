//! Holds and their ends: what is charged, and what a crash or a full disk leaves.

use super::*;

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
async fn what_has_no_price_is_recorded_without_a_limit_and_refused_under_one() {
    let fixture = Fixture::new().await;
    let request = Request { price: None, ..fixture.attempt().request };
    let unpriced = Attempt { request, ..fixture.attempt() };
    fixture.ledger.hold(unpriced.clone(), None).await.unwrap().dispatch().settle(reported(5, 6));
    assert_eq!(fixture.column("output_tokens").await, ["6"]);
    assert_eq!(fixture.column("CASE WHEN is_priced THEN 1 ELSE 0 END").await, ["0"]);
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
    assert_eq!(fixture.column("CASE WHEN is_recovered THEN 1 ELSE 0 END").await, ["1", "1", "1"]);
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
    let directory = Some(DataDir::new(fixture.home.path()));
    let ledger = Ledger::new(fixture.db.clone(), directory, fixture.clock.clone(), full);
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
