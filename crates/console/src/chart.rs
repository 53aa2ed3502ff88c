//! Pictures of numbers, drawn here: bars over time, and how far a budget is spent. Each has its numbers in words beside it.

use maud::{Markup, html};
use serde_json::Value;
use tollgate_core::{Money, Timestamp};

use crate::page::{plain, table};
use crate::show;

/// One bar: what it is of, how high it is, what it says.
pub(crate) struct Bar {
    pub(crate) of: String,
    pub(crate) height: i64,
    pub(crate) told: String,
}

/// What buckets of usage cost together.
pub(crate) fn cost(buckets: &[Value]) -> Money {
    let results = buckets.iter().filter_map(|bucket| bucket["results"].as_array()).flatten();
    results.map(|result| show::money(&result["cost"])).sum()
}

/// What was spent on each day, drawn and as a table.
pub(crate) fn days(told: &str, buckets: &[Value]) -> Markup {
    let of = |bucket: &Value| {
        let cost = cost(std::slice::from_ref(bucket));
        let of = show::day(show::number(bucket, "start_time").unwrap_or(0));
        Bar { of, height: cost.nanos(), told: show::dollars(cost) }
    };
    let days: Vec<Bar> = buckets.iter().map(of).collect();
    let row = |bar: &Bar| html! { tr { th scope="row" { (bar.of) } td.number { (bar.told) } } };
    let rows: Vec<Markup> = days.iter().map(row).collect();
    html! {
        (bars(told, &days))
        details { summary { "As a table" } (table("Spent by day", &["Day", "Spent"], &rows, &plain("Nothing yet."))) }
    }
}

/// Bars over time. `told` is what the picture shows, in a sentence.
pub(crate) fn bars(told: &str, bars: &[Bar]) -> Markup {
    const HEIGHT: i64 = 120;
    const STEP: usize = 24;
    let highest = bars.iter().map(|bar| bar.height).max().unwrap_or(0).max(1);
    let width = bars.len().max(1) * STEP;
    let height_of = |bar: &Bar| {
        i64::try_from(i128::from(bar.height.max(0)) * i128::from(HEIGHT) / i128::from(highest)).unwrap_or(0)
    };
    html! {
        svg.chart viewBox=(format!("0 0 {width} {}", HEIGHT + 4)) role="img" aria-label=(told)
            preserveAspectRatio="none" {
            line.base x1="0" x2=(width) y1=(HEIGHT + 2) y2=(HEIGHT + 2) {}
            @for (position, bar) in bars.iter().enumerate() {
                @let height = height_of(bar).max(i64::from(bar.height > 0));
                rect x=(position * STEP + 2) width=(STEP - 4) y=(HEIGHT + 2 - height) height=(height) {
                    title { (bar.of) ": " (bar.told) }
                }
            }
        }
        @if let (Some(first), Some(last)) = (bars.first(), bars.last()) {
            p.axis aria-hidden="true" { span { (first.of) } span { (last.of) } }
        }
    }
}

/// A spend limit with what is spent, what is held for requests under way, and where it is going.
pub(crate) fn budget(limit: &Value, now: Timestamp) -> Markup {
    let cap = Money::from_cents(limit["threshold_amount"].as_i64().unwrap_or(0)).unwrap_or(Money::ZERO);
    let (spent, held) = (show::money(&limit["spent"]), show::money(&limit["held"]));
    let (start, end) =
        (show::number(limit, "period_start").unwrap_or(0), show::number(limit, "period_end").unwrap_or(0));
    let share = |money: Money| permille(money.nanos(), cap.nanos());
    let (spent_to, held_to) = (share(spent), share(spent + held));
    let forecast = forecast(spent, (start, end), now);
    let forecast_at = forecast.map(share);
    let percent = if cap == Money::ZERO { 100 } else { percent(spent.nanos(), cap.nanos()) };
    let told = format!(
        "{} of {} ({percent} %), resets {}",
        show::dollars(spent),
        show::dollars(cap),
        Timestamp(end).to_string().get(..16).unwrap_or("").replace('T', " ") + " UTC"
    );
    let state = if spent_to >= 1000 {
        "full"
    } else if spent_to >= 800 {
        "high"
    } else {
        "fine"
    };
    html! {
        div.budget {
            svg class=(format!("bar {state}")) viewBox="0 0 1000 20" preserveAspectRatio="none" role="img"
                aria-label=(told) {
                rect.all x="0" y="0" width="1000" height="20" {}
                rect.held x="0" y="0" width=(held_to.min(1000)) height="20" {}
                rect.spent x="0" y="0" width=(spent_to.min(1000)) height="20" {}
                @if let Some(at) = forecast_at.filter(|at| *at <= 1000) {
                    rect.forecast x=((at - 2).max(0)) y="0" width="4" height="20" {}
                }
            }
            p {
                strong { (show::amount(spent)) " of " (show::amount(cap)) } " (" (percent) " %)"
                @if held > Money::ZERO { ", " (show::amount(held)) " held" }
                @if let Some(forecast) = forecast { ", about " (show::dollars(forecast)) " by its end" }
                ", resets " (show::time(Some(end)))
            }
        }
    }
}

/// What will be spent by the end of a period, if it goes on as until now; nothing before a twentieth of it is over.
fn forecast(spent: Money, (start, end): (i64, i64), now: Timestamp) -> Option<Money> {
    let (passed, whole) = (now.0 - start, end - start);
    if spent <= Money::ZERO || passed <= 0 || whole <= 0 || passed * 20 < whole {
        return None;
    }
    let nanos = i128::from(spent.nanos()) * i128::from(whole) / i128::from(passed);
    Money::parse(&format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000))
}

fn permille(part: i64, whole: i64) -> i64 {
    if whole <= 0 {
        return 1000;
    }
    i64::try_from(i128::from(part) * 1000 / i128::from(whole)).unwrap_or(1000).clamp(0, 10_000)
}

fn percent(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * 100 / i128::from(whole.max(1))).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_goes_on_as_until_now() {
        let dollars = |text: &str| Money::parse(text).unwrap();
        assert_eq!(forecast(dollars("10"), (0, 3_000), Timestamp(1_000)), Some(dollars("30")));
        assert_eq!(forecast(dollars("10"), (0, 3_000), Timestamp(100)), None, "too early to say");
        assert_eq!(forecast(dollars("0"), (0, 3_000), Timestamp(1_000)), None);
        assert_eq!((permille(1, 2), permille(3, 0), permille(-1, 2)), (500, 1000, 0));
    }
}
