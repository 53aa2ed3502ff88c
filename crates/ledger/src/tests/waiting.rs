//! What does not fit waits, or is clamped.

use super::*;

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
async fn what_was_clamped_is_counted_as_such_after_a_crash_too() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 3 / 4).await;
    let clamping = Attempt { clamp_to: Some(100), ..fixture.attempt() };
    let hold = fixture.ledger.hold(clamping, None).await.unwrap();
    assert!(hold.granted().is_clamped);
    fixture.ledger.flush().await;
    std::mem::forget(hold);
    recovery::settle_open_holds(&fixture.db, &fixture.clock).await.unwrap();
    fixture.assert_balanced().await;
}
