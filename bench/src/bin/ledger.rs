//! The ledger alone: how many holds and settlements a second, durably, and what of the processor each takes.
//!
//!     ledger DIRECTORY strict|overlap CONCURRENCY KEYS SECONDS
//!
//! DIRECTORY is empty, on the disk to be measured. Every caller holds under a limit of its project, is told that the hold is
//! on disk (strict) or may go on before (overlap), and settles by a reported usage, again and again. In the end the books
//! are checked. Prints one JSON object.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tollgate_core::budget::{Mode, Payer, Scope};
use tollgate_core::price::{Kinds, Overrun, Price, Rates, Request, Size, TokenUsage};
use tollgate_core::time::Stopwatch;
use tollgate_core::{
    Clock, Interval, Money, OrganizationId, ProjectId, Result, UnitPrice, UpstreamId, UserId, Zone,
};
use tollgate_ledger::spend_limit::{self, Wanted};
use tollgate_ledger::{Attempt, Durability, Endpoint, Ledger, Options, Reported, fsck};
use tollgate_store::{DataDir, Db, MIGRATIONS, Options as DbOptions, params};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in the program

const REQUEST: Request = Request {
    price: Some(Price {
        rates: Rates {
            cached_input: Some(UnitPrice(75_000)),
            output: Some(UnitPrice(600_000)),
            ..Rates::of_input(UnitPrice(150_000))
        },
        ..Price::FREE
    }),
    size: Size {
        input: Some(1_000),
        input_max: None,
        kinds: Kinds::NONE,
        output_each: Some(1_000),
        output_each_max: None,
        choices: 1,
        output_extra: 0,
        searches: Some(0),
        input_overrun: Overrun::NONE,
        output_overrun: Overrun::NONE,
    },
    ceiling: None,
};

struct Bench {
    db: Db,
    ledger: Ledger,
    clock: Clock,
    payers: Vec<Payer>,
}

impl Bench {
    async fn start(directory: &Path, durability: Durability, keys: usize) -> Result<Self> {
        let (directory, clock) = (DataDir::new(directory), Clock::system());
        directory.create()?;
        let db = directory.open(DbOptions { create: true, read_only: false })?;
        db.migrate(Some(&directory), MIGRATIONS, &clock).await?;
        let organization: OrganizationId = clock.next_id();
        let (project, user): (ProjectId, UserId) = (clock.next_id(), clock.next_id());
        let payers: Vec<Payer> = (0..keys)
            .map(|_| Payer { organization, project, user: Some(user), key: clock.next_id() })
            .collect();
        insert(&db, &payers).await?;
        let wanted =
            Wanted { interval: Interval::Month, zone: Zone::UTC, amount: Money::MAX, mode: Mode::Enforce };
        let told = clock.clone();
        let limit = db.write(move |tx| {
            Box::pin(async move {
                spend_limit::set(tx, organization, Scope::Project(project), &wanted, &told).await
            })
        });
        limit.await?;
        let options = Options { durability, ..Options::default() };
        let ledger = Ledger::new(db.clone(), Some(directory), clock.clone(), options);
        Ok(Self { db, ledger, clock, payers })
    }

    fn attempt(&self, number: usize) -> Attempt {
        Attempt {
            id: self.clock.next_id(),
            attempt_of: None,
            payer: self.payers[number % self.payers.len()],
            key_number: i64::try_from(number % self.payers.len()).unwrap_or(0) + 1,
            endpoint: Endpoint::Completions,
            model: Arc::from("gpt-4o-mini"),
            upstream: UpstreamId::from_bits(3),
            labels: None,
            request: REQUEST,
            if_limited: None,
            input_estimate: 250,
            believable_max: 1_000_000,
            is_final: true,
            clamp_to: None,
        }
    }
}

async fn insert(db: &Db, payers: &[Payer]) -> Result<()> {
    let payers = payers.to_vec();
    db.write(move |tx| {
        Box::pin(async move {
            let first = payers[0];
            tx.execute(
                "INSERT INTO organization (id, name, created_at) VALUES ($1, 'bench', 0)",
                &params![first.organization],
            )
            .await?;
            tx.execute(
                "INSERT INTO project (id, organization_id, name, is_default, created_at) VALUES ($1, $2, 'p', $3, 0)",
                &params![first.project, first.organization, false],
            )
            .await?;
            tx.execute(
                "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ($1, $1, 'u', $2, 0)",
                &params![first.user, false],
            )
            .await?;
            for (number, payer) in (1_i64..).zip(&payers) {
                tx.execute(
                    "INSERT INTO api_key (id, kind, organization_id, project_id, user_id, name, scopes, redacted_value,
                     created_at, is_active, number) VALUES ($1, 'project', $2, $3, $4, 'k', '', '', 0, $5, $6)",
                    &params![payer.key, payer.organization, payer.project, payer.user, true, number],
                )
                .await?;
            }
            Ok(())
        })
    })
    .await
}

/// Processor time of this process's threads by name, in microseconds.
fn processor_time(names: &[&str]) -> u64 {
    const TICK_MICROS: u64 = 10_000;
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (head, tail) = stat.rsplit_once(')')?;
            let name = head.split_once('(')?.1;
            let fields: Vec<u64> =
                tail.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
            names.contains(&name).then(|| fields.iter().sum::<u64>() * TICK_MICROS)
        })
        .sum()
}

async fn run(arguments: &[String]) -> Result<(), String> {
    let [directory, durability, concurrency, keys, seconds] = arguments else {
        return Err("usage: ledger DIRECTORY strict|overlap CONCURRENCY KEYS SECONDS".to_owned());
    };
    let number = |text: &String| text.parse::<usize>().map_err(|_| format!("`{text}` is no number"));
    let (concurrency, keys, seconds) = (number(concurrency)?, number(keys)?, number(seconds)?);
    let durability = match durability.as_str() {
        "strict" => Durability::Strict,
        "overlap" => Durability::Overlap,
        other => return Err(format!("`{other}` is neither strict nor overlap")),
    };
    let bench =
        Bench::start(Path::new(directory), durability, keys).await.map_err(|error| error.to_string())?;
    let bench = Arc::new(bench);
    let duration = Duration::from_secs(seconds as u64);
    let (watch, before) = (Stopwatch::start(), processor_time(&["db-writer", "db-sync"]));
    let mut callers = JoinSet::new();
    for caller in 0..concurrency {
        let (bench, watch) = (Arc::clone(&bench), watch);
        callers.spawn(async move {
            let mut pairs = 0_usize;
            while watch.elapsed() < duration {
                let attempt = bench.attempt(caller + pairs * concurrency);
                let Ok(hold) = bench.ledger.hold(attempt, None).await else { break };
                let usage = TokenUsage { input: 120, output: 60, ..TokenUsage::default() };
                let dispatched = hold.dispatch();
                dispatched.on_disk().await;
                dispatched.settle(Reported { usage: Some(usage), ..Reported::default() });
                pairs += 1;
            }
            pairs
        });
    }
    let mut pairs = 0;
    while let Some(Ok(count)) = callers.join_next().await {
        pairs += count;
    }
    bench.ledger.flush().await;
    let (elapsed, spent) = (watch.elapsed(), processor_time(&["db-writer", "db-sync"]) - before);
    let report = fsck::check(&bench.db).await.map_err(|error| error.to_string())?;
    let is_whole =
        report.is_balanced() && usize::try_from(report.attempts) == Ok(pairs) && report.open_holds == 0;
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(1);
    let pairs = pairs.max(1) as u64;
    say(&format!(
        "{{\"durability\":\"{durability:?}\",\"concurrency\":{concurrency},\"keys\":{keys},\"pairs\":{pairs},\"pairs_per_second\":{},\
         \"ledger_nanos_per_pair\":{},\"balanced\":{is_whole}}}",
        pairs * 1_000_000 / micros,
        spent * 1_000 / pairs,
    ));
    bench.db.close();
    if is_whole { Ok(()) } else { Err(report.to_string()) }
}

#[expect(clippy::print_stdout, reason = "the figures of a benchmark")]
fn say(text: &str) {
    println!("{text}");
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(run(&arguments))
}
