//! Random histories: the batch and the machine that run in production, over books that a simulation keeps in memory, with
//! crashes, power cuts, lost acknowledgements and ends that come twice; a provider that bills on its own; rollovers,
//! limits that come, change and go. After every step the books must balance and no limit may be exceeded. And variants
//! that are broken on purpose, each of which must be caught.

mod books;
mod random;
mod world;

use world::World;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// Two halves of a batch decide on the same budgets, and the later write wins: check, then act.
    CheckThenAct,
    /// What does not fit is admitted with what is left.
    ShrinksToFit,
    /// After a crash nobody pays for what was in flight.
    RecoveryVoids,
    /// After a crash what was in flight is forgotten, and its money given back.
    RecoveryForgets,
    /// An end that comes twice counts twice.
    NotIdempotent,
    /// An end counts in the period when it comes.
    SettlesInTheWrongPeriod,
    /// A limit begins at zero, whatever was spent.
    LimitBeginsAtZero,
    /// A hold under a limit is answered before it is on disk.
    AnswersBeforeTheDisk,
    /// A clamped request is not told upstream.
    ClampIsNotTold,
    /// What is cut is charged by what was seen, though the provider may bill all of it.
    CutIsChargedBySight,
}

const BROKEN: [Broken; 10] = [
    Broken::CheckThenAct,
    Broken::ShrinksToFit,
    Broken::RecoveryVoids,
    Broken::RecoveryForgets,
    Broken::NotIdempotent,
    Broken::SettlesInTheWrongPeriod,
    Broken::LimitBeginsAtZero,
    Broken::AnswersBeforeTheDisk,
    Broken::ClampIsNotTold,
    Broken::CutIsChargedBySight,
];

const STEPS: usize = 60;

/// Runs histories from `first` on; the first that breaks, if one does.
fn run(first: u64, count: u64, broken: Broken) -> Option<(u64, usize, String)> {
    (first..first + count).find_map(|seed| {
        let mut world = World::new(seed, broken);
        (0..STEPS).find_map(|step| world.step().err().map(|why| (seed, step, why)))
    })
}

/// A million in the long run of the experiments, where it is built with optimization.
fn histories() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the test script says how long the run is")]
    std::env::var("TOLLGATE_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000)
}

#[test]
fn no_random_history_exceeds_a_limit_or_loses_what_was_billed() {
    let count = histories();
    let half = count / 2;
    let other = std::thread::spawn(move || run(half, count - half, Broken::No));
    assert_eq!(run(0, half, Broken::No), None);
    assert_eq!(other.join().unwrap(), None);
    println!("{count} histories of {STEPS} steps: no limit exceeded, nothing lost, books balanced");
}

#[test]
fn every_variant_that_is_broken_on_purpose_is_caught() {
    for broken in BROKEN {
        let (seed, step, why) = run(0, 20_000, broken).unwrap_or_else(|| panic!("{broken:?} was not caught"));
        println!("{broken:?}: history {seed}, step {step}: {why}");
    }
}
