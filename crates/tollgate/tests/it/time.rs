//! What time does: keys expire, months end.

use std::time::Duration;

use serde_json::json;
use tollgate_core::Timestamp;

use crate::{Fixture, client, refusal, spend_a_cent};

/// 2026-11-23T00:00:00Z.
const START: Timestamp = Timestamp(1_795_392_000);

#[tokio::test]
async fn an_expired_key_is_refused_and_cannot_be_updated() {
    let fixture = Fixture::start(START).await;
    let (id, key) = fixture.key(json!({"expires_in_seconds": 60})).await;
    let (_, forever) = fixture.key(json!({})).await;
    fixture.advance(Duration::from_secs(59));
    key.get("/models", &[]).await.unwrap();

    fixture.advance(Duration::from_secs(1));
    assert_eq!(refusal(key.get("/models", &[]).await), (401, "invalid_api_key".to_owned()));
    forever.get("/models", &[]).await.unwrap();
    let update = fixture
        .admin
        .post(&fixture.path(&format!("/api_keys/{id}")), &json!({"expires_in_seconds": 60}))
        .await;
    assert_eq!(refusal(update), (400, "api_key_expired".to_owned()));
    fixture.finish().await;
}

#[tokio::test]
async fn an_update_counts_the_time_to_live_anew() {
    let fixture = Fixture::start(START).await;
    let (id, key) = fixture.key(json!({"expires_in_seconds": 60})).await;
    fixture.advance(Duration::from_secs(50));
    let path = fixture.path(&format!("/api_keys/{id}"));
    let updated = fixture.admin.post(&path, &json!({"expires_in_seconds": 60})).await.unwrap();
    assert_eq!(updated["expires_at"], START.0 + 110);
    fixture.advance(Duration::from_secs(59));
    key.get("/models", &[]).await.unwrap();
    fixture.advance(Duration::from_secs(1));
    assert_eq!(refusal(key.get("/models", &[]).await).0, 401);
    fixture.finish().await;
}

#[tokio::test]
async fn an_expired_admin_key_opens_nothing() {
    let fixture = Fixture::start(START).await;
    let body = json!({"name": "short", "expires_in_seconds": 10});
    let made = fixture.admin.post("/organization/admin_api_keys", &body).await.unwrap();
    let short = client(&fixture.node, made["value"].as_str().unwrap());
    short.get("/organization/projects", &[]).await.unwrap();
    fixture.advance(Duration::from_secs(10));
    assert_eq!(refusal(short.get("/organization/projects", &[]).await), (401, "invalid_api_key".to_owned()));
    fixture.finish().await;
}

#[tokio::test]
async fn a_spend_limit_starts_anew_with_the_month() {
    let fixture = Fixture::start(START).await;
    let (_, key) = fixture.key(json!({})).await;
    let path = fixture.path("/spend_limit");
    let limit = json!({"threshold_amount": 2, "currency": "USD", "interval": "month"});
    fixture.admin.post(&path, &limit).await.unwrap();
    spend_a_cent(&key).await.unwrap();
    assert_eq!(refusal(spend_a_cent(&key).await), (429, "project_spend_limit_exceeded".to_owned()));
    let november = fixture.admin.get(&path, &[]).await.unwrap();
    assert_eq!(november["enforcement"]["status"], "enforcing");

    fixture.advance(Duration::from_hours(8 * 24));
    let december = fixture.admin.get(&path, &[]).await.unwrap();
    assert_eq!(
        (december["spent"].as_str(), &december["enforcement"]["status"]),
        (Some("0.000000000"), &json!("inactive"))
    );
    assert_eq!(december["period_start"], november["period_end"]);
    spend_a_cent(&key).await.unwrap();
    assert_eq!(refusal(spend_a_cent(&key).await).0, 429);

    let months = [("start_time", START.0.to_string()), ("limit", "31".to_owned())];
    let costs = fixture.admin.get("/organization/costs", &months).await.unwrap();
    let days = costs["data"].as_array().unwrap();
    let used: Vec<usize> = (0..days.len()).filter(|day| days[*day]["results"] != json!([])).collect();
    assert_eq!(used, [0, 8], "each request counts on its own day");
    fixture.finish().await;
}

#[tokio::test]
async fn what_was_used_can_be_read_by_the_minute() {
    let fixture = Fixture::start(START).await;
    let (_, key) = fixture.key(json!({})).await;
    spend_a_cent(&key).await.unwrap();
    fixture.advance(Duration::from_mins(3));
    spend_a_cent(&key).await.unwrap();
    spend_a_cent(&key).await.unwrap();
    for (width, expected) in [("1m", vec![1, 0, 0, 2]), ("1h", vec![3]), ("1d", vec![3])] {
        let query = [("start_time", START.0.to_string()), ("bucket_width", width.to_owned())];
        let usage = fixture.admin.get("/organization/usage/completions", &query).await.unwrap();
        let counts: Vec<i64> = usage["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bucket| bucket["results"][0]["num_model_requests"].as_i64().unwrap_or(0))
            .collect();
        assert_eq!(counts, expected, "{width}");
    }
    fixture.finish().await;
}

#[tokio::test]
async fn an_alert_is_told_again_in_the_next_month() {
    let fixture = Fixture::start(START).await;
    let (_, key) = fixture.key(json!({})).await;
    let channel = json!({"type": "email", "recipients": ["a@example.com"]});
    let alert = json!({"threshold_amount": 1, "currency": "USD", "interval": "month", "notification_channel": channel});
    fixture.admin.post(&fixture.path("/spend_alerts"), &alert).await.unwrap();
    let told = async |count: usize| {
        for _ in 0..600 {
            let all = fixture.admin.get("/tollgate/v1/notifications", &[]).await.unwrap();
            if all["data"].as_array().unwrap().len() >= count {
                return all["data"].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody was told");
    };
    spend_a_cent(&key).await.unwrap();
    told(1).await;
    fixture.advance(Duration::from_hours(8 * 24));
    // Nothing was spent in December yet, and what happens next is told before what would be told of it.
    let whole = json!({"threshold_amount": 0, "currency": "USD", "interval": "month", "notification_channel": channel});
    fixture.admin.post("/organization/spend_alerts", &whole).await.unwrap();
    spend_a_cent(&key).await.unwrap();
    let all = told(3).await;
    let starts: Vec<i64> =
        all.as_array().unwrap().iter().map(|one| one["created_at"].as_i64().unwrap()).collect();
    assert_eq!(starts.iter().filter(|at| **at < START.0 + 7 * 86_400).count(), 1, "{all}");
    fixture.finish().await;
}
