//! A closed-loop load: so many connections, each with one request at a time. Prints requests, failures, and latencies.
//!
//! `load URL KEY BODY CONNECTIONS REQUESTS SECONDS_MAX`

use std::time::{Duration, Instant};

use tollgate_core::Address;
use tollgate_wire::Dialer;

#[expect(clippy::disallowed_methods, reason = "this program measures time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "its answer")]
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, key, body, connections, requests, seconds] = arguments.as_slice() else {
        panic!("usage: load URL KEY BODY CONNECTIONS REQUESTS SECONDS_MAX");
    };
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let address = Address::parse(url).expect("a URL");
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        address.path,
        address.authority(),
        body.len()
    );
    let (count, each) = (number(connections), number(requests) / number(connections));
    let deadline = now() + Duration::from_secs(number(seconds) as u64);
    let started = now();
    let callers: Vec<_> = (0..count)
        .map(|_| tokio::spawn(call(address.clone(), head.clone(), body.clone(), each, deadline)))
        .collect();
    let (mut latencies, mut failures) = (Vec::new(), 0);
    for caller in callers {
        let (mut own, failed) = caller.await.expect("a caller ends");
        latencies.append(&mut own);
        failures += failed;
    }
    let elapsed = started.elapsed().as_micros();
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or(0);
    println!(
        "{{\"requests\":{},\"failures\":{failures},\"elapsed_us\":{elapsed},\"p50_us\":{},\"p99_us\":{}}}",
        latencies.len(),
        at(50),
        at(99)
    );
}

async fn call(
    address: Address,
    head: String,
    body: String,
    requests: usize,
    deadline: Instant,
) -> (Vec<u128>, usize) {
    let dialer = Dialer::new(tollgate_wire::client_config(), Duration::from_secs(5));
    let (mut latencies, mut failures, mut connection) = (Vec::with_capacity(requests), 0, None);
    let mut answer = Vec::with_capacity(64 * 1024);
    while latencies.len() + failures < requests && now() < deadline {
        let kept = match connection.take() {
            Some(connection) => Ok(connection),
            None => dialer.dial(&address).await,
        };
        let Ok(current) = kept else {
            failures += 1;
            continue;
        };
        let begun = now();
        answer.clear();
        let Ok(mut exchange) = current.send(head.as_bytes(), body.as_bytes()).await else {
            failures += 1;
            continue;
        };
        let is_whole = loop {
            match exchange.read(&mut answer).await {
                Ok(true) => {}
                Ok(false) => break true,
                Err(_) => break false,
            }
        };
        if is_whole && exchange.head.status == 200 {
            latencies.push(begun.elapsed().as_micros());
        } else {
            failures += 1;
        }
        connection = exchange.into_connection();
    }
    (latencies, failures)
}
