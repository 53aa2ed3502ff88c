//! Limits: their levels, periods and modes.

use super::*;

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
    let organization = fixture.organization;
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
        .read(move |tx| {
            Box::pin(async move { replay::rehearse(tx, organization, limit, since, now, 2).await })
        })
        .await
        .unwrap();
    assert_eq!((tried.requests, tried.refused_requests, tried.refused_cost), (6, 3, Money(6_000_000)));
    assert_eq!(tried.periods.iter().map(|period| period.refused_requests).collect::<Vec<_>>(), [3, 0]);
    assert_eq!((tried.data.len(), tried.has_more), (2, true));
    fixture.assert_balanced().await;
}
