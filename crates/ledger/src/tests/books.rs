//! Corrections, and the examination of the books.

use super::*;

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
        ("UPDATE usage_total SET requests = 2 WHERE project_id = ''", "UPDATE usage_total SET requests = 1"),
        (
            "UPDATE usage_total SET output_cost = output_cost + 1 WHERE project_id <> '' AND width = 3600",
            "UPDATE usage_total SET output_cost = output_cost - 1 WHERE project_id <> '' AND width = 3600",
        ),
        ("UPDATE usage_total SET service_tier = 'flex'", "UPDATE usage_total SET service_tier = 'default'"),
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
