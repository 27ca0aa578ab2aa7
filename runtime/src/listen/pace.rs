//! A peer that was refused is not listened to for a moment.
//!
//! To refuse costs less than to serve, and a peer that asks again at once makes up for that by numbers. What it
//! sends meanwhile waits in its own socket, which costs nobody else anything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Nothing is read of a connection for so long after a refusal,
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// and then at first so many bytes, which are a few calls.
const SIP: usize = 1 << 10;

/// Where a connection is told that its peer was refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<AtomicBool>);

/// How a connection's peer is listened to.
#[derive(Debug)]
pub(super) struct Pace {
    refusals: Refusals,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Paused(Pin<Box<Sleep>>),
    /// The pause is over, and nothing has been read since.
    Sips,
}

impl Refusals {
    pub(super) fn one_more(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        // Mostly there is none, and to look costs less than to take.
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl Pace {
    pub(super) fn new(refusals: Refusals) -> Self {
        Self {
            refusals,
            state: State::Free,
        }
    }

    /// Reads of a stream, unless its peer is to wait.
    pub(super) fn poll_read(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refusals.take() {
            self.state = State::Paused(Box::pin(sleep(PAUSE)));
        }
        if let State::Paused(end) = &mut self.state {
            ready!(end.as_mut().poll(cx));
            self.state = State::Sips;
        }
        if matches!(self.state, State::Free) {
            return stream.poll_read(cx, buffer);
        }
        let most = SIP.min(buffer.remaining());
        let mut sip = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(stream.poll_read(cx, &mut sip))?;
        let read = sip.filled().len();
        buffer.advance(read);
        self.state = State::Free;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    use super::*;

    async fn read(pace: &mut Pace, stream: &mut (impl AsyncRead + Unpin)) -> usize {
        let mut bytes = [0; 8 << 10];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| pace.poll_read(Pin::new(stream), cx, &mut buffer))
            .await
            .unwrap();
        buffer.filled().len()
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_nothing_is_read_for_a_moment_then_little_then_all() {
        let (mut peer, mut stream) = tokio::io::duplex(64 << 10);
        let refusals = Refusals::default();
        let mut pace = Pace::new(refusals.clone());
        let start = Instant::now();
        peer.write_all(&[7; 32 << 10]).await.unwrap();
        assert_eq!(read(&mut pace, &mut stream).await, 8 << 10);
        assert_eq!(start.elapsed(), Duration::ZERO);

        refusals.one_more();
        refusals.one_more();
        assert_eq!(read(&mut pace, &mut stream).await, SIP);
        // The clock of the test goes on when nothing else does, in whole milliseconds.
        assert!(start.elapsed() >= PAUSE && start.elapsed() < PAUSE * 2);
        let start = Instant::now();
        assert_eq!(read(&mut pace, &mut stream).await, 8 << 10);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_after_a_pause_still_gets_a_sip_first() {
        let (mut peer, mut stream) = tokio::io::duplex(64 << 10);
        let refusals = Refusals::default();
        let mut pace = Pace::new(refusals.clone());
        refusals.one_more();
        let later = async {
            sleep(PAUSE * 3).await;
            peer.write_all(&[7; 4 << 10]).await.unwrap();
        };
        let (read, ()) = tokio::join!(read(&mut pace, &mut stream), later);
        assert_eq!(read, SIP);
    }
}
