//! What this node has seen of its upstreams: which can be asked, which should rest, and how many requests are under way.
//!
//! An upstream rests after a refusal that concerns everybody (its credential, its quota, its load; for a model, a limit)
//! and after failures in a row. While it rests, others of the model are asked; when its rest is over one request tries it,
//! and whatever does not make it rest anew ends the rest. One that cannot even
//! be reached is not asked at all while it rests, for whoever asks would wait for nothing. One that answers with errors
//! is, if the model has no other: somebody's bad request must not take it from everybody else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tollgate_core::UpstreamId;
use tollgate_core::upstream::Settings;
use tollgate_replica::Upstream;
use tollgate_wire::Dialer;

/// Connections that could not be made, one after the other, until an upstream counts as down.
const UNREACHED_MAX: u32 = 3;
/// Failures in a row until an upstream rests.
const FAILED_MAX: u32 = 5;
/// The first rest; each further one without a success between is twice as long.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// The longest that an upstream's own word of when to come back is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// After a refusal of the credential or the account, which no request of anybody's mends.
const REFUSED_REST: Duration = Duration::from_secs(10);

/// All upstreams that were asked.
#[derive(Default)]
pub(crate) struct Watch(Mutex<HashMap<UpstreamId, Arc<Health>>>);

impl Watch {
    pub(crate) fn of(&self, upstream: &Upstream) -> Arc<Health> {
        Arc::clone(lock(&self.0).entry(upstream.id).or_default())
    }
}

/// One upstream, as this node has seen it.
#[derive(Default)]
pub(crate) struct Health {
    state: Mutex<State>,
    gate: Mutex<Option<Gate>>,
    dialer: Mutex<Option<SetUp>>,
}

#[derive(Default)]
struct State {
    unreached: u32,
    failed: u32,
    rest: Option<Rest>,
    /// Models that it takes no more requests for until then.
    limited: HashMap<Arc<str>, Instant>,
    /// How long the last rest was, until something succeeds.
    last: Duration,
    /// Whether anything ever succeeded.
    is_proven: bool,
}

struct Rest {
    until: Instant,
    is_down: bool,
    /// Whether somebody should know: not of one that only has too much to do.
    is_outage: bool,
    /// Whether somebody is trying it.
    is_tried: bool,
}

/// How many may be under way. With another number it is another gate: those under way count for the old one.
struct Gate {
    places: u32,
    free: Arc<Semaphore>,
}

struct SetUp {
    upstream: Arc<Upstream>,
    dialer: Dialer,
}

/// Whether an upstream can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Well,
    /// It rests: others go before.
    Resting,
    /// It cannot be reached, and will be tried again after so long.
    Down(Duration),
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Unreached,
    /// No answer, or none in time.
    Failed,
    Answered {
        status: u16,
        /// Seconds.
        retry_after: Option<u64>,
    },
}

/// One that was chosen. Whatever comes of it is told once; if nothing is, whoever comes next may try.
pub(crate) struct Turn {
    health: Arc<Health>,
    is_trial: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Health {
    pub(crate) fn condition(&self, model: &str) -> Condition {
        let state = lock(&self.state);
        let now = Instant::now();
        let is_limited = state.limited.get(model).is_some_and(|until| now < *until);
        match &state.rest {
            _ if is_limited && state.rest.as_ref().is_none_or(|rest| !rest.is_down) => Condition::Resting,
            None => Condition::Well,
            Some(rest) if now >= rest.until && !rest.is_tried => Condition::Well,
            Some(rest) if rest.is_down => Condition::Down(rest.until.saturating_duration_since(now)),
            Some(_) => Condition::Resting,
        }
    }

    /// Whether it neither rests nor is down.
    pub(crate) fn is_up(&self) -> bool {
        lock(&self.state).rest.as_ref().is_none_or(|rest| Instant::now() >= rest.until)
    }

    /// Whether it has been given up until a request succeeds; `None` if nothing has shown it.
    pub(crate) fn is_down(&self) -> Option<bool> {
        let state = lock(&self.state);
        match &state.rest {
            Some(rest) if rest.is_outage => Some(true),
            _ => state.is_proven.then_some(false),
        }
    }

    /// Whether nobody would have to wait for a place.
    pub(crate) fn has_place(&self, upstream: &Upstream) -> bool {
        self.gate(upstream).is_none_or(|free| free.available_permits() > 0)
    }

    /// Waits for a place, where their number is limited; `None` if there is none within `patience`.
    pub(crate) async fn turn(self: Arc<Self>, upstream: &Upstream, patience: Duration) -> Option<Turn> {
        let place = match self.gate(upstream) {
            None => None,
            Some(free) => Some(tokio::time::timeout(patience, free.acquire_owned()).await.ok()?.ok()?),
        };
        let is_trial = {
            let mut state = lock(&self.state);
            let now = Instant::now();
            match &mut state.rest {
                Some(rest) if now >= rest.until && !rest.is_tried => {
                    rest.is_tried = true;
                    true
                }
                _ => false,
            }
        };
        Some(Turn { health: self, is_trial, _place: place })
    }

    fn gate(&self, upstream: &Upstream) -> Option<Arc<Semaphore>> {
        let mut gate = lock(&self.gate);
        let Some(places) = upstream.settings.concurrency_max else {
            *gate = None;
            return None;
        };
        let fits = gate.as_ref().is_some_and(|gate| gate.places == places);
        if !fits {
            *gate = Some(Gate { places, free: Arc::new(Semaphore::new(places as usize)) });
        }
        gate.as_ref().map(|gate| Arc::clone(&gate.free))
    }

    /// What connects to it, set up as its settings say.
    pub(crate) fn dialer(&self, usual: &Dialer, upstream: &Arc<Upstream>) -> Result<Dialer, String> {
        let settings = &upstream.settings;
        if !needs_set_up(settings) {
            return Ok(usual.clone());
        }
        let mut kept = lock(&self.dialer);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.upstream.settings == *settings) {
            return Ok(kept.dialer.clone());
        }
        let dialer = usual.set_up(settings)?;
        *kept = Some(SetUp { upstream: Arc::clone(upstream), dialer: dialer.clone() });
        Ok(dialer)
    }

    /// It can be reached, whatever comes of it.
    fn note_reached(&self) {
        let mut state = lock(&self.state);
        state.unreached = 0;
        if state.rest.as_ref().is_some_and(|rest| rest.is_down) {
            state.rest = None;
        }
    }

    fn note(&self, outcome: Outcome, model: &Arc<str>, is_trial: bool) {
        let mut state = lock(&self.state);
        let (rest, is_down) = match outcome {
            Outcome::Unreached => {
                state.unreached += 1;
                ((state.unreached >= UNREACHED_MAX).then(|| state.longer()), true)
            }
            // A limit is mostly one of a model's, and so is a permission.
            Outcome::Answered { status: 429, retry_after } => {
                state.unreached = 0;
                let asked = retry_after.map_or(REST_MIN, Duration::from_secs);
                let until = Instant::now() + asked.clamp(REST_MIN, RETRY_AFTER_MAX);
                state.limited.insert(Arc::clone(model), until);
                (None, false)
            }
            Outcome::Answered { status: 403, .. } => {
                state.unreached = 0;
                (None, false)
            }
            Outcome::Answered { status: 529, retry_after } => {
                state.unreached = 0;
                let asked = retry_after.map_or(REST_MIN, Duration::from_secs);
                (Some(asked.clamp(REST_MIN, RETRY_AFTER_MAX)), false)
            }
            Outcome::Answered { status: 401 | 402, .. } => {
                state.unreached = 0;
                (Some(REFUSED_REST), false)
            }
            Outcome::Failed | Outcome::Answered { status: 500.., .. } => {
                (state.unreached, state.failed) = (0, state.failed + 1);
                ((state.failed >= FAILED_MAX).then(|| state.longer()), false)
            }
            Outcome::Answered { .. } => {
                let mut limited = std::mem::take(&mut state.limited);
                limited.remove(model);
                *state = State { limited, is_proven: true, ..State::default() };
                return;
            }
        };
        if let Some(time) = rest {
            let is_outage = !matches!(outcome, Outcome::Answered { status: 529, .. });
            state.rest = Some(Rest { until: Instant::now() + time, is_down, is_outage, is_tried: false });
        } else if is_trial {
            // It answered the one that tried it, with nothing that concerns everybody.
            state.rest = None;
        }
    }
}

impl State {
    fn longer(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(REST_MIN, REST_MAX);
        self.last
    }
}

impl Turn {
    /// What came of a request for a model.
    pub(crate) fn note(&mut self, outcome: Outcome, model: &Arc<str>) {
        let is_trial = std::mem::take(&mut self.is_trial);
        self.health.note(outcome, model, is_trial);
    }

    pub(crate) fn note_reached(&self) {
        self.health.note_reached();
    }

    pub(crate) fn dialer(&self, usual: &Dialer, upstream: &Arc<Upstream>) -> Result<Dialer, String> {
        self.health.dialer(usual, upstream)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Nothing came of the trial: the client went away, or had no money.
        if self.is_trial
            && let Some(rest) = &mut lock(&self.health.state).rest
        {
            rest.is_tried = false;
        }
    }
}

/// Whether connections are made in another way than usual.
fn needs_set_up(settings: &Settings) -> bool {
    settings.ca_certificates.is_some()
        || settings.connect_timeout.is_some()
        || settings.http_version.is_some()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::tests::upstream;

    const FINE: Outcome = Outcome::Answered { status: 200, retry_after: None };
    const BROKEN: Outcome = Outcome::Answered { status: 500, retry_after: None };

    fn note(health: &Health, outcome: Outcome, times: u32) -> Condition {
        (0..times).for_each(|_| health.note(outcome, &"m".into(), false));
        health.condition("m")
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_reached_is_down_until_one_request_has_tried_it() {
        let (health, upstream) = (Arc::new(Health::default()), upstream());
        assert_eq!(note(&health, Outcome::Unreached, 2), Condition::Well);
        assert_eq!(note(&health, Outcome::Unreached, 1), Condition::Down(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(health.condition("m"), Condition::Well);
        let trial = Arc::clone(&health).turn(&upstream, Duration::ZERO).await.unwrap();
        assert_eq!(health.condition("m"), Condition::Down(Duration::ZERO), "one tries, others wait");
        drop(trial);
        assert_eq!(health.condition("m"), Condition::Well, "nothing came of it: the next may try");
        let mut trial = Arc::clone(&health).turn(&upstream, Duration::ZERO).await.unwrap();
        trial.note(Outcome::Unreached, &"m".into());
        assert_eq!(health.condition("m"), Condition::Down(Duration::from_secs(2)), "twice as long");
        assert_eq!(note(&health, Outcome::Unreached, 9), Condition::Down(Duration::from_secs(30)));
        health.note_reached();
        assert_eq!(health.condition("m"), Condition::Well, "whatever comes of the trial");
        assert_eq!(note(&health, FINE, 1), Condition::Well);
        assert_eq!(note(&health, Outcome::Unreached, 2), Condition::Well, "all is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_make_it_rest_and_one_success_between_them_does_not() {
        let health = Health::default();
        assert_eq!(note(&health, BROKEN, 4), Condition::Well);
        note(&health, FINE, 1);
        assert_eq!(note(&health, BROKEN, 4), Condition::Well);
        assert_eq!(note(&health, Outcome::Failed, 1), Condition::Resting);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_ends_the_rest_unless_it_makes_another() {
        let answered = |status| Outcome::Answered { status, retry_after: None };
        for outcome in [answered(403), answered(429), answered(500), Outcome::Failed, Outcome::Unreached] {
            let (health, upstream) = (Arc::new(Health::default()), upstream());
            assert_eq!(note(&health, answered(401), 1), Condition::Resting);
            tokio::time::advance(REFUSED_REST).await;
            let mut trial = Arc::clone(&health).turn(&upstream, Duration::ZERO).await.unwrap();
            trial.note(outcome, &"m".into());
            drop(trial);
            assert_eq!(health.condition("another"), Condition::Well, "{outcome:?}");
        }
        let (health, upstream) = (Arc::new(Health::default()), upstream());
        note(&health, BROKEN, 5);
        tokio::time::advance(REST_MIN).await;
        let mut trial = Arc::clone(&health).turn(&upstream, Duration::ZERO).await.unwrap();
        trial.note(BROKEN, &"m".into());
        assert_eq!(health.condition("m"), Condition::Resting);
    }

    #[tokio::test(start_paused = true)]
    async fn its_own_word_of_when_to_come_back_counts_within_a_minute() {
        for (seconds, rest) in [(None, 1), (Some(0), 1), (Some(7), 7), (Some(100_000), 60)] {
            let health = Health::default();
            assert_eq!(
                note(&health, Outcome::Answered { status: 429, retry_after: seconds }, 1),
                Condition::Resting
            );
            assert_eq!(health.condition("another"), Condition::Well, "a limit is a model's");
            tokio::time::advance(Duration::from_millis(rest * 1_000 - 1)).await;
            assert_eq!(health.condition("m"), Condition::Resting);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(health.condition("m"), Condition::Well);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_as_many_as_are_set() {
        let (health, mut upstream) = (Arc::new(Health::default()), upstream());
        upstream.settings.concurrency_max = Some(1);
        let first = Arc::clone(&health).turn(&upstream, Duration::ZERO).await;
        assert!(first.is_some() && !health.has_place(&upstream));
        assert!(Arc::clone(&health).turn(&upstream, Duration::from_secs(1)).await.is_none());
        drop(first);
        assert!(health.has_place(&upstream));
        upstream.settings.concurrency_max = None;
        assert!(health.has_place(&upstream));
    }
}
