//! Corrections, and the examination of the books.

use tollgate_core::price_book::Figures;

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

#[tokio::test]
async fn the_sums_of_an_older_database_have_totals() {
    let home = tempfile::tempdir().unwrap();
    let place = Home::for_tests(home.path());
    if place.database_directory().is_none() {
        // Where a server was first supported there were no older rows to move, and the words are the same.
        return;
    }
    let clock = Clock::manual(Timestamp(1_780_000_000));
    place.create().unwrap();
    let db = place.open(DbOptions { create: true, read_only: false }).unwrap();
    db.migrate(place.database_directory(), MIGRATIONS.split_at(15).0, &clock).await.unwrap();
    let id = |prefix: &str, number: u128| {
        let text = UserId::from_bits(number).to_string();
        format!("{prefix}{}", text.strip_prefix("user-").unwrap())
    };
    let mut rows = vec![
        format!("INSERT INTO organization (id, name, created_at) VALUES ('{}', 'Ours', 1)", id("org-", 1)),
        format!(
            "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ('{}', 'a@b.c', 'A', FALSE, 1)",
            id("user-", 1)
        ),
    ];
    rows.extend(old_prices());
    for key in 1..=3_u128 {
        let project = id("proj_", key % 2);
        rows.push(format!(
            "INSERT INTO project (id, organization_id, name, is_default, created_at) VALUES ('{project}', '{}', 'P', FALSE, 1) ON CONFLICT (id) DO NOTHING",
            id("org-", 1)
        ));
        rows.push(format!(
            "INSERT INTO api_key (id, kind, organization_id, project_id, user_id, name, scopes, redacted_value, created_at, is_active, number)
             VALUES ('{}', 'project', '{}', '{project}', '{}', 'k', '', '', 1, TRUE, {key})",
            id("key_", key), id("org-", 1), id("user-", 1)
        ));
        for turn in 0..4_u128 {
            let at = 1_780_000_000 + 40_000 * turn;
            rows.push(format!(
                "INSERT INTO attempt (id, key_number, endpoint, model, upstream_id, state, usage_source, is_recovered, is_priced, bound, input_cost, cached_input_cost, cache_write_cost, output_cost,
                    drained_output_cost, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, drained_output_tokens, created_at, resolved_at)
                 VALUES ('{}', {key}, 'completions', 'm{}', '{}', 'settled', 'upstream', FALSE, TRUE, 9, {key}, 2, 3, 4, 0, 50, 10, 10, 20, 0, {at}, {at})",
                id("req_", (at * 1000) << 80 | key), turn % 2, id("upstream_", 1)
            ));
        }
    }
    rows.push(
        "INSERT INTO usage_rollup (key_number, width, bucket_start, endpoint, model, upstream_id, requests, clamped_requests, input_cost, cached_input_cost, cache_write_cost, output_cost,
            drained_output_cost, adjusted_cost, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, drained_output_tokens)
         SELECT a.key_number, w.width, (a.created_at / w.width) * w.width, a.endpoint, a.model, a.upstream_id, COUNT(*), 0, SUM(a.input_cost), SUM(a.cached_input_cost), SUM(a.cache_write_cost),
            SUM(a.output_cost), 0, 0, SUM(a.input_tokens), SUM(a.cached_input_tokens), SUM(a.cache_write_tokens), SUM(a.output_tokens), 0
         FROM attempt a CROSS JOIN (SELECT 3600 AS width UNION ALL SELECT 86400 AS width) w GROUP BY 1, 2, 3, 4, 5, 6"
            .to_owned(),
    );
    db.write(move |tx| {
        Box::pin(async move {
            for sql in rows {
                tx.execute(&*sql.leak(), &[]).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
    db.migrate(place.database_directory(), MIGRATIONS, &clock).await.unwrap();
    let report = fsck::check(&db).await.unwrap();
    assert!(report.is_balanced(), "{report}");
    assert_eq!((report.attempts, report.settled), (12, Money(4 * (1 + 2 + 3) + 12 * 9)));
    let sql = "SELECT COUNT(*), CAST(SUM(requests) AS BIGINT) FROM usage_total WHERE width = 86400 AND project_id = ''";
    let row: Row = db.read(move |tx| Box::pin(tx.one(sql, &[]))).await.unwrap();
    assert_eq!((row.at::<i64>(0).unwrap(), row.at::<i64>(1).unwrap()), (4, 12));
    assert_prices_are_versions(&db).await;
}

/// Prices as they stood beside limits.
fn old_prices() -> impl Iterator<Item = String> {
    let models = [
        ("priced", "150000, NULL, 600000, NULL, 500000"),
        ("odd", "0, 1, NULL, NULL, NULL"),
        ("limited", "NULL, NULL, NULL, 1000, NULL"),
    ];
    models.into_iter().map(|(model, prices)| {
        format!(
            "INSERT INTO model_override (model, input_price, cached_input_price, output_price, context_tokens, flex_ppm, updated_at)
             VALUES ('{model}', {prices}, 1790000000)"
        )
    })
}

/// What was said of prices is their first version.
async fn assert_prices_are_versions(db: &Db) {
    let sql = "SELECT model, figures, effective_from, version FROM model_price ORDER BY model";
    let rows: Vec<Row> = db.read(move |tx| Box::pin(tx.all(sql, &[]))).await.unwrap();
    let said = |row: &Row| {
        let figures = Figures::from_stored(&row.at::<String>(1).unwrap()).unwrap();
        (row.at::<String>(0).unwrap(), figures.said().to_string(), row.at::<Timestamp>(2).unwrap().0)
    };
    assert_eq!(
        rows.iter().map(said).collect::<Vec<_>>(),
        [
            (
                "odd".to_owned(),
                r#"{"cached_input_price":"0.000001","input_price":"0"}"#.to_owned(),
                1_790_000_000
            ),
            (
                "priced".to_owned(),
                r#"{"flex_price_factor":"0.5","input_price":"0.15","output_price":"0.6"}"#.to_owned(),
                1_790_000_000
            ),
        ]
    );
    let sql = "SELECT model, context_tokens FROM model_override";
    let limits: Vec<Row> = db.read(move |tx| Box::pin(tx.all(sql, &[]))).await.unwrap();
    assert_eq!(limits.iter().map(|row| row.at::<String>(0).unwrap()).collect::<Vec<_>>(), ["limited"]);
}

#[tokio::test]
async fn old_requests_are_deleted_and_the_books_still_balance() {
    let fixture = Fixture::new().await;
    fixture.limit(BOUND * 1_000).await;
    // A request of each kind a day for ninety days; some corrected.
    for day in 0..90 {
        let attempt = fixture.attempt();
        let id = attempt.id;
        fixture.ledger.hold(attempt, None).await.unwrap().dispatch().settle(reported(1_000, 1_000));
        drop(fixture.hold_of(1).await.unwrap());
        fixture.ledger.flush().await;
        if day % 7 == 0 {
            let (clock, organization) = (fixture.clock.clone(), fixture.organization);
            let change = Change::Less(Money(1_000));
            let wanted = adjustment::Wanted { kind: Kind::Refund, change, reason: "r".to_owned(), by: None };
            let adjust = fixture.db.write(move |tx| {
                Box::pin(async move { adjustment::adjust(tx, &clock, organization, id, &wanted).await })
            });
            adjust.await.unwrap();
        }
        fixture.clock.advance(Duration::from_hours(24));
    }
    let open = fixture.dispatched().await;
    let count = |sql: &'static str| {
        let read = fixture.db.read(move |tx| Box::pin(tx.one::<Row>(sql, &[])));
        async move { read.await.unwrap().at::<i64>(0).unwrap() }
    };
    let sums =
        "SELECT CAST(SUM(requests + input_cost + output_cost + adjusted_cost) AS BIGINT) FROM usage_rollup";
    let (before, settled) = (count(sums).await, fixture.budget().await.settled);
    assert_eq!(retention::clear(&fixture.db, &fixture.clock).await.unwrap(), 0, "nobody asked for it");
    fixture.execute("UPDATE organization SET requests_days = 35").await;
    // Of 181 attempts those of the last 35 days stay, and of the day that they begin in.
    let deleted = retention::clear(&fixture.db, &fixture.clock).await.unwrap();
    assert_eq!(count("SELECT COUNT(*) FROM attempt").await, 181 - i64::try_from(deleted).unwrap());
    assert!((108..=112).contains(&deleted), "{deleted}");
    assert_eq!(retention::clear(&fixture.db, &fixture.clock).await.unwrap(), 0);
    assert_eq!(count("SELECT COUNT(*) FROM adjustment").await, 5);
    assert_eq!(
        (count(sums).await, fixture.budget().await.settled),
        (before, settled),
        "what it was in sum stays"
    );
    fixture.assert_balanced().await;
    // What is there is still looked at.
    fixture.execute("UPDATE attempt SET input_cost = input_cost + 1 WHERE state = 'settled'").await;
    let report = fsck::check(&fixture.db).await.unwrap();
    assert!(!report.is_balanced());
    fixture.execute("UPDATE attempt SET input_cost = input_cost - 1 WHERE state = 'settled'").await;
    open.settle(reported(10, 10));
    fixture.ledger.flush().await;
    fixture.assert_balanced().await;
}

#[tokio::test]
async fn an_organization_that_comes_to_it_during_a_pass_is_not_passed_over() {
    let fixture = Fixture::new().await;
    for _ in 0..3 {
        fixture.ledger.hold(fixture.attempt(), None).await.unwrap().dispatch().settle(reported(1_000, 1_000));
        fixture.ledger.flush().await;
        fixture.clock.advance(Duration::from_hours(24));
    }
    let later = fixture.clock.now();
    fixture.clock.advance(Duration::from_hours(24 * 90));
    fixture.execute("UPDATE organization SET requests_days = 35").await;
    // The pass has gone through what came before, for others.
    let (now, until) = (fixture.clock.now(), later.plus_seconds(86_400));
    let step = fixture
        .db
        .write(move |tx| Box::pin(async move { retention::clear_some(tx, later, until, now).await }));
    assert_eq!(step.await.unwrap(), (0, until));
    let from = fixture.db.read(|tx| Box::pin(tx.one::<Row>("SELECT requests_from FROM organization", &[])));
    assert_eq!(from.await.unwrap().at::<i64>(0).unwrap(), 0, "nothing of it is gone");
    assert_eq!(retention::clear(&fixture.db, &fixture.clock).await.unwrap(), 3);
    fixture.assert_balanced().await;
}
