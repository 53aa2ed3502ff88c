//! A beat that the requests of a worker share, to wait for a moment that nobody measures exactly. A timer of each one's own
//! is most often the next to end, so that the poller has to be told of it, which takes a system call.

use std::time::Duration;

use tokio::sync::Notify;

const BEAT: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(crate) struct Beat {
    wanted: Notify,
    beats: Notify,
}

impl Beat {
    /// Beats as long as somebody waits. Never returns.
    pub(crate) async fn run(&self) {
        loop {
            self.wanted.notified().await;
            tokio::time::sleep(BEAT).await;
            self.beats.notify_waiters();
        }
    }

    /// Returns after one to two beats.
    pub(crate) async fn moment(&self) {
        for _ in 0..2 {
            let beat = self.beats.notified();
            self.wanted.notify_one();
            beat.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_one_to_two_beats_for_whoever_waits() {
        let beat = Beat::default();
        let waiting = async {
            let started = Instant::now();
            tokio::join!(beat.moment(), beat.moment());
            let first = started.elapsed();
            let started = Instant::now();
            beat.moment().await;
            (first, started.elapsed())
        };
        let (first, second) = tokio::select! {
            () = beat.run() => unreachable!(),
            times = waiting => times,
        };
        for time in [first, second] {
            assert!((BEAT..=3 * BEAT).contains(&time), "{time:?}");
        }
    }
}
