//! Work that goes on when whoever asked for it goes away.
//!
//! A future that is dropped stops where it stands: behind a commit, and before what must be told of it.

use runtime::tasks::TaskGroup;
use tokio::sync::oneshot;

/// Runs work to its end, and answers with what came of it.
///
/// `None` if it panicked, which is contained, or was dropped with the process: nobody knows how far it came.
pub(crate) async fn run<T: Send + 'static>(
    tasks: &TaskGroup,
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (done, outcome) = oneshot::channel();
    tasks.spawn_contained(name, async move {
        // Who asked may be gone.
        let _ = done.send(work.await);
    });
    outcome.await.ok()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use runtime::shutdown::Shutdown;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_for_it_and_its_panic_is_told() {
        let tasks = TaskGroup::new(Shutdown::new().0);
        let (go, gone) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        let work = run(&tasks, "work", async move {
            let _ = gone.await;
            let _ = done.send(());
        });
        // It has begun, and whoever waits for it goes away.
        assert!(work.now_or_never().is_none());
        go.send(()).unwrap();
        seen.await.unwrap();
        assert_eq!(run(&tasks, "work", async { 7 }).await, Some(7));
        let broken: Option<()> = run(&tasks, "work", async { panic!("on purpose") }).await;
        assert_eq!((broken, tasks.contained_panics()), (None, 1));
    }
}
