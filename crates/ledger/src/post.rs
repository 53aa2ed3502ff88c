//! How word gets from the database's threads to the tasks that wait for it.
//!
//! To wake a task of another thread takes a system call. A batch answers many at once, and most of them wait on the same few
//! threads, so it puts those who are to be woken into a box of their thread and wakes only the postman there, who wakes them
//! from within.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use tokio::sync::Notify;

struct PostBox {
    /// Who is to be woken; `None` once no postman comes any more.
    waiting: Mutex<Option<Vec<Waker>>>,
    postman: Notify,
}

thread_local! {
    /// The box of this thread, if a postman works here.
    static HERE: RefCell<Option<Arc<PostBox>>> = const { RefCell::new(None) };
}

impl PostBox {
    fn put(&self, waker: Waker) {
        let mut waiting = self.waiting();
        let Some(others) = waiting.as_mut() else {
            drop(waiting);
            return waker.wake();
        };
        others.push(waker);
        // Whoever finds others in it knows that the postman was told.
        if others.len() == 1 {
            drop(waiting);
            self.postman.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Waker>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the box away when the postman is dropped, and wakes those whom he has left.
struct Round(Arc<PostBox>);

impl Drop for Round {
    fn drop(&mut self) {
        HERE.set(None);
        let left = self.0.waiting().take();
        left.into_iter().flatten().for_each(Waker::wake);
    }
}

/// The postman of this thread, whose runtime has no other thread. Never returns; drop it to stop.
pub async fn postman() {
    let waiting = Mutex::new(Some(Vec::new()));
    let round = Round(Arc::new(PostBox { waiting, postman: Notify::new() }));
    HERE.set(Some(Arc::clone(&round.0)));
    loop {
        round.0.postman.notified().await;
        let woken = round.0.waiting().as_mut().map(std::mem::take);
        woken.into_iter().flatten().for_each(Waker::wake);
    }
}

struct ByPost {
    to: Waker,
    by: Arc<PostBox>,
}

impl Wake for ByPost {
    fn wake(self: Arc<Self>) {
        self.by.put(self.to.clone());
    }
}

/// Waits for what another thread brings about, by post where there is one.
pub(crate) async fn arrival<F: Future>(future: F) -> F::Output {
    let Some(by) = HERE.with_borrow(Clone::clone) else { return future.await };
    let mut future = pin!(future);
    let mut known: Option<Arc<ByPost>> = None;
    poll_fn(|context| {
        let is_known = known.as_ref().is_some_and(|known| known.to.will_wake(context.waker()));
        let known = match &known {
            Some(known) if is_known => Arc::clone(known),
            _ => Arc::clone(
                known.insert(Arc::new(ByPost { to: context.waker().clone(), by: Arc::clone(&by) })),
            ),
        };
        future.as_mut().poll(&mut Context::from_waker(&Waker::from(known)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::sync::oneshot;

    use super::*;

    fn on_a_thread<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn everybody_is_told_with_and_without_a_postman() {
        for has_postman in [false, true] {
            on_a_thread(async {
                let working =
                    async { if has_postman { postman().await } else { std::future::pending().await } };
                let (tell, told): (Vec<_>, Vec<_>) = (0..100).map(|_| oneshot::channel::<usize>()).unzip();
                let waiting = async {
                    let tasks: Vec<_> = told.into_iter().map(|told| tokio::spawn(arrival(told))).collect();
                    tokio::task::yield_now().await;
                    let telling = std::thread::spawn(move || {
                        tell.into_iter().enumerate().for_each(|(number, tell)| tell.send(number).unwrap());
                    });
                    for (number, task) in tasks.into_iter().enumerate() {
                        assert_eq!(task.await.unwrap(), Ok(number));
                    }
                    telling.join().unwrap();
                };
                tokio::select! {
                    biased;
                    () = working => {}
                    () = waiting => {}
                }
            });
        }
    }

    #[test]
    fn whoever_waits_when_the_postman_stops_is_told_all_the_same() {
        for is_told_before in [false, true] {
            on_a_thread(async {
                let mut working = Box::pin(postman());
                assert!(poll_fn(|cx| Poll::Ready(working.as_mut().poll(cx).is_pending())).await);
                let (tell, told) = oneshot::channel::<usize>();
                let task = tokio::spawn(arrival(told));
                tokio::task::yield_now().await;
                let mut working = Some(working).filter(|_| is_told_before);
                tell.send(7).unwrap();
                drop(working.take());
                assert_eq!(task.await.unwrap(), Ok(7));
            });
        }
    }
}
