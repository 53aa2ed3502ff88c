//! The ledger over a real database: what it grants, how holds end, and that the books balance after all of it.

mod books;
mod holds;
mod limits;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::budget::{Budget, Mode, Payer, Scope};
use tollgate_core::price::{Kinds, Overrun, Price, Rates, Request, Size, TokenUsage};
use tollgate_core::{
    Clock, Error, Interval, Money, OrganizationId, ProjectId, Result, Timestamp, UnitPrice, UserId, Zone,
};
use tollgate_store::{DataDir, Db, Home, MIGRATIONS, Options as DbOptions, Row, Sql, params};

use crate::adjustment::{self, Change, Kind};
use crate::spend_limit::{self, Wanted};
use crate::{
    Attempt, Dispatched, Endpoint, Flags, Hold, Ledger, Options, Refused, Reported, fsck, recovery, replay,
    retention,
};

/// A dollar a million tokens, in and out: a thousand tokens cost a tenth of a cent.
const PRICE: Price = Price {
    rates: Rates { output: Some(UnitPrice(1_000_000)), ..Rates::of_input(UnitPrice(1_000_000)) },
    ..Price::FREE
};

/// What a request of the tests costs at most: 1,000 tokens each way, and three nano-dollars for rounding.
const BOUND: i64 = 2_000_003;

const SIZE: Size = Size {
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
};

/// Two people with a key each in one project, and a second project with a key of the first person.
struct Fixture {
    home: tempfile::TempDir,
    place: Home,
    db: Db,
    clock: Clock,
    ledger: Ledger,
    organization: OrganizationId,
    payers: Vec<Payer>,
}

impl Fixture {
    async fn new() -> Self {
        Self::starting(Timestamp(1_780_000_000)).await // 2026-05-28T20:26:40Z, a Thursday
    }

    async fn starting(start: Timestamp) -> Self {
        let home = tempfile::tempdir().unwrap();
        let place = Home::for_tests(home.path());
        let clock = Clock::manual(start);
        place.create().unwrap();
        let db = place.open(DbOptions { create: true, read_only: false }).unwrap();
        db.migrate(place.database_directory(), MIGRATIONS, &clock).await.unwrap();
        let organization: OrganizationId = clock.next_id();
        let (projects, users): ([ProjectId; 2], [UserId; 2]) =
            ([clock.next_id(), clock.next_id()], [clock.next_id(), clock.next_id()]);
        let payer = |project: usize, user: usize| Payer {
            organization,
            project: projects[project],
            user: Some(users[user]),
            key: clock.next_id(),
        };
        let payers = vec![payer(0, 0), payer(0, 1), payer(1, 0)];
        insert_people(&db, organization, &projects, &users, &payers).await;
        let ledger =
            Ledger::new(db.clone(), place.database_directory().cloned(), clock.clone(), Options::default());
        Self { home, place, db, clock, ledger, organization, payers }
    }

    /// As after a restart: nothing is in memory.
    fn restarted(&self) -> Ledger {
        let directory = self.place.database_directory().cloned();
        Ledger::new(self.db.clone(), directory, self.clock.clone(), Options::default())
    }

    fn attempt(&self) -> Attempt {
        self.attempt_of(0)
    }

    fn attempt_of(&self, payer: usize) -> Attempt {
        Attempt {
            id: self.clock.next_id(),
            attempt_of: None,
            payer: self.payers[payer],
            key_number: i64::try_from(payer).unwrap() + 1,
            endpoint: Endpoint::Completions,
            model: Arc::from("m"),
            upstream: tollgate_core::UpstreamId::from_bits(3),
            labels: None,
            request: Request { price: Some(PRICE), size: SIZE, ceiling: None },
            if_limited: None,
            input_estimate: 250,
            believable_max: 1_000_000,
            is_final: true,
            clamp_to: None,
        }
    }

    async fn hold(&self) -> Result<Hold, Refused> {
        self.hold_of(0).await
    }

    async fn hold_of(&self, payer: usize) -> Result<Hold, Refused> {
        self.ledger.hold(self.attempt_of(payer), None).await
    }

    async fn dispatched(&self) -> Dispatched {
        self.hold().await.unwrap().dispatch()
    }

    async fn limit(&self, nanos: i64) -> Budget {
        self.set(Scope::Project(self.payers[0].project), &monthly(nanos)).await
    }

    async fn set(&self, scope: Scope, wanted: &Wanted) -> Budget {
        let (clock, wanted, organization) = (self.clock.clone(), wanted.clone(), self.organization);
        let set = self.db.write(move |tx| {
            Box::pin(async move { spend_limit::set(tx, organization, scope, &wanted, &clock).await })
        });
        let budget = set.await.unwrap();
        self.ledger.reconsider();
        budget
    }

    async fn remove(&self, scope: Scope, interval: Interval) {
        let organization = self.organization;
        let removed = self.db.write(move |tx| {
            Box::pin(async move {
                let limit = spend_limit::find(tx, scope, interval).await?.expect("a limit");
                spend_limit::remove(tx, organization, &limit).await
            })
        });
        removed.await.unwrap();
        self.ledger.reconsider();
    }

    async fn budget(&self) -> Budget {
        self.budget_of(Scope::Project(self.payers[0].project), Interval::Month).await
    }

    async fn budget_of(&self, scope: Scope, interval: Interval) -> Budget {
        let now = self.clock.now();
        self.ledger.flush().await;
        self.db
            .read(move |tx| {
                Box::pin(async move {
                    let limit = spend_limit::find(tx, scope, interval).await?.expect("a limit");
                    spend_limit::current(tx, limit, now).await
                })
            })
            .await
            .unwrap()
    }

    async fn column(&self, column: &'static str) -> Vec<String> {
        self.ledger.flush().await;
        let sql = Sql::from("SELECT CAST(").push(column).push(" AS TEXT) FROM attempt ORDER BY id");
        let rows: Vec<Row> =
            self.db.read(|tx| Box::pin(async move { tx.all(sql, &[]).await })).await.unwrap();
        rows.iter().map(|row| row.at::<Option<String>>(0).unwrap().unwrap_or_default()).collect()
    }

    async fn costs(&self) -> Vec<String> {
        self.column("input_cost + output_cost + drained_output_cost").await
    }

    async fn execute(&self, sql: &'static str) {
        self.db.write(move |tx| Box::pin(async move { tx.execute(sql, &[]).await })).await.unwrap();
    }

    /// Every test ends here.
    async fn assert_balanced(&self) -> fsck::Report {
        self.ledger.flush().await;
        let report = fsck::check(&self.db).await.unwrap();
        assert!(report.is_balanced(), "{report}");
        report
    }
}

async fn insert_people(
    db: &Db,
    organization: OrganizationId,
    projects: &[ProjectId],
    users: &[UserId],
    payers: &[Payer],
) {
    let (projects, users, payers) = (projects.to_vec(), users.to_vec(), payers.to_vec());
    db.write(move |tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO organization (id, name, created_at) VALUES ($1, 'o', 0)", &params![organization])
                .await?;
            for project in projects {
                let sql = "INSERT INTO project (id, organization_id, name, is_default, created_at) VALUES ($1, $2, 'p', $3, 0)";
                tx.execute(sql, &params![project, organization, false]).await?;
            }
            for user in users {
                let sql = "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ($1, $1, 'u', $2, 0)";
                tx.execute(sql, &params![user, false]).await?;
            }
            for (payer, number) in payers.iter().zip(1i64..) {
                let sql = "INSERT INTO api_key (id, kind, organization_id, project_id, user_id, name, scopes, redacted_value,
                    created_at, is_active, number) VALUES ($1, 'project', $2, $3, $4, 'k', '', '', 0, $5, $6)";
                let values = params![payer.key, payer.organization, payer.project, payer.user, true, number];
                tx.execute(sql, &values).await?;
            }
            Ok(())
        })
    })
    .await
    .unwrap();
}

fn monthly(nanos: i64) -> Wanted {
    Wanted { interval: Interval::Month, zone: Zone::UTC, amount: Money(nanos), mode: Mode::Enforce }
}

fn every(interval: Interval, zone: &str, nanos: i64) -> Wanted {
    Wanted { interval, zone: Zone::parse(zone).unwrap(), ..monthly(nanos) }
}

fn usage(input: u64, output: u64) -> TokenUsage {
    TokenUsage { input, output, ..TokenUsage::default() }
}

fn reported(input: u64, output: u64) -> Reported {
    Reported { usage: Some(usage(input, output)), ..Reported::default() }
}

fn code(refused: Refused) -> &'static str {
    Error::from(refused).code.unwrap_or("")
}
