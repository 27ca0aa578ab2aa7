//! Whether a connection has streams, and since when it has none.
//!
//! The task of a connection waits for this beside everything else that it does. A stream that begins wakes
//! nobody: the task that took it in would run once more for it, on another thread, while the stream has yet to
//! be answered.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The streams of one connection. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    streams: Mutex<Streams>,
    none_left: Notify,
}

#[derive(Debug)]
struct Streams {
    open: usize,
    any: bool,
    // Since when none is open, if none is.
    none_since: Instant,
}

/// A stream that is open until this is dropped.
#[derive(Debug)]
pub(super) struct OpenStream(Activity);

impl Activity {
    /// Of a connection that has had no stream.
    pub(super) fn new() -> Self {
        let streams = Streams {
            open: 0,
            any: false,
            none_since: Instant::now(),
        };
        Self(Arc::new(Shared {
            streams: Mutex::new(streams),
            none_left: Notify::new(),
        }))
    }

    pub(super) fn open(&self) -> OpenStream {
        let mut streams = self.0.streams.lock();
        streams.open += 1;
        streams.any = true;
        OpenStream(self.clone())
    }

    /// Whether there ever was a stream.
    pub(super) fn is_any(&self) -> bool {
        self.0.streams.lock().any
    }

    /// Waits until no stream has been open for `patience`, of which nothing before `start` counts.
    pub(super) async fn without_streams(&self, patience: Duration, start: Instant) {
        loop {
            let none_since = {
                let streams = self.0.streams.lock();
                (streams.open == 0).then_some(streams.none_since)
            };
            match none_since.map(|since| since.max(start) + patience) {
                // Who ends between the look and the wait leaves word, and old word is looked into once more.
                None => self.0.none_left.notified().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
            }
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let shared = &self.0.0;
        let mut streams = shared.streams.lock();
        streams.open -= 1;
        if streams.open == 0 {
            streams.none_since = Instant::now();
            drop(streams);
            shared.none_left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_begins_wakes_nobody() {
        let (activity, wakes) = (Activity::new(), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut quiet = pin!(activity.without_streams(PATIENCE, Instant::now()));
        assert!(quiet.as_mut().poll(&mut cx).is_pending());
        let streams = [activity.open(), activity.open()];
        assert!(quiet.as_mut().poll(&mut cx).is_pending());
        drop(streams);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        assert!(activity.is_any());
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_counted_from_the_end_of_the_last_stream() {
        let activity = Activity::new();
        let start = Instant::now();
        let streams = async {
            // One that begins and ends within the patience, and one that is open when it is over.
            advance(PATIENCE / 2).await;
            drop(activity.open());
            advance(PATIENCE / 2).await;
            let long = activity.open();
            tokio::time::sleep(PATIENCE * 3).await;
            drop(long);
        };
        tokio::join!(streams, activity.without_streams(PATIENCE, start));
        assert_eq!(start.elapsed(), PATIENCE * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_before_the_start_does_not_count() {
        let activity = Activity::new();
        tokio::time::sleep(PATIENCE * 2).await;
        let start = Instant::now();
        activity.without_streams(PATIENCE, start).await;
        assert_eq!(start.elapsed(), PATIENCE);
    }
}
