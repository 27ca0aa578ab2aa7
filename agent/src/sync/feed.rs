//! The feed: what the server pushes, from the beginning of a stream to its end.

use std::time::Duration;

use futures_util::StreamExt;
use runtime::random;
use runtime::report;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::held::{Change, Extent, Gathered, News};
use super::{NO_FEED, Sync, Way};
use crate::upstream::feed::{Feed, Followed, Part};
use crate::upstream::{Upstream, UpstreamError};

/// How long a bundle that is asked for by itself may take, for nothing else is heard meanwhile.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);

/// How long a stream lasts before its end is taken for the first of a kind.
const STEADY: Duration = Duration::from_secs(10);

/// A feed that has begun.
#[derive(Debug)]
pub(super) struct Live {
    followed: Followed,
    gathered: Gathered,
    extent: Extent,
    since: Instant,
}

/// Why a feed is not listened to any more.
#[derive(Debug)]
pub(super) enum Ended {
    /// The agent has another identity.
    Renewed,
    Lost(UpstreamError),
}

impl<U: Upstream + Feed> Sync<U> {
    /// Opens the feed and takes the first change. `false` says that the server is to be polled.
    pub(super) async fn follow(&mut self) -> Result<bool, UpstreamError> {
        self.renewals.mark_unchanged();
        let held = self.held.position();
        let resumes = held.is_some();
        let error = match self.begin(held).await {
            Ok(true) => return Ok(true),
            Ok(false) => {
                info!("Server has no feed, and is asked at an interval");
                self.poll();
                return Ok(false);
            }
            Err(error) => error,
        };
        self.live = None;
        match error {
            UpstreamError::Refused { .. } | UpstreamError::Protocol { .. } if !resumes => {
                // What the feed says is of no use. The server may still answer what it is asked.
                warn!(error.reason = error.reason(), error = %report::chain(&error), "Server broke its feed, and is asked at an interval");
                self.poll();
                Ok(false)
            }
            error => {
                self.lose(&error);
                Err(error)
            }
        }
    }

    async fn begin(
        &mut self,
        held: Option<crate::upstream::feed::Position>,
    ) -> Result<bool, UpstreamError> {
        let Some(followed) = self.deps.upstream.follow(held).await? else {
            return Ok(false);
        };
        let resumed = followed.resumed;
        let mut live = Live {
            extent: if resumed {
                Extent::AllBundles
            } else {
                Extent::Everything
            },
            followed,
            gathered: Gathered::default(),
            since: Instant::now(),
        };
        while live.extent != Extent::Difference {
            let part = live.next().await?;
            self.hear(&mut live, part)?;
        }
        info!(
            count = self.held.entries().len(),
            feed.resumed = resumed,
            "Following the server"
        );
        self.live = Some(live);
        self.way = Way::Feed;
        self.pace.failures = 0;
        Ok(true)
    }

    /// Takes what the server pushes until the feed has to be opened anew.
    pub(super) async fn listen(&mut self) -> Ended {
        let Some(mut live) = self.live.take() else {
            return Ended::Renewed;
        };
        let ended = loop {
            tokio::select! {
                biased;
                Ok(()) = self.renewals.changed() => break Ended::Renewed,
                () = self.deps.driver.sync_wanted() => self.fetch_bundle().await,
                part = live.next() => {
                    if let Err(error) = part.and_then(|part| self.hear(&mut live, part)) {
                        break Ended::Lost(error);
                    }
                    self.succeeded();
                }
            }
        };
        // One that breaks off again and again is opened more and more rarely.
        if live.since.elapsed() >= STEADY {
            self.backoff.reset();
        }
        match ended {
            Ended::Renewed => self.live = Some(live),
            // What was said against an identity says nothing about the one that came after it.
            Ended::Lost(UpstreamError::Denied(_))
                if self.renewals.has_changed().unwrap_or(false) =>
            {
                return Ended::Renewed;
            }
            Ended::Lost(ref error) => self.lose(error),
        }
        ended
    }

    fn hear(&mut self, live: &mut Live, part: Part) -> Result<(), UpstreamError> {
        let piece = match part {
            Part::Piece(piece) => piece,
            Part::Keepalive => {
                self.deps.driver.reached();
                return Ok(());
            }
        };
        if let Some(change) = live.gathered.add(piece)? {
            self.take(change, live.extent)?;
            live.extent = Extent::Difference;
        }
        Ok(())
    }

    fn take(&mut self, change: Change, extent: Extent) -> Result<(), UpstreamError> {
        match self.held.take(change, extent)? {
            News::Everything(bundles, entries) => self.deps.driver.synced(bundles, entries),
            News::Difference {
                bundles,
                entries,
                removed,
            } => {
                let (count, gone) = (entries.len(), removed.len());
                debug!(count, feed.removed = gone, "Server told a change");
                self.deps.driver.changed(bundles, entries, removed);
            }
        }
        Ok(())
    }

    /// Asks for the own bundle by itself, if an SVID waits for one. The feed brings it, too, but an
    /// identity is not to depend on that.
    async fn fetch_bundle(&mut self) {
        if !self.deps.driver.lacks_bundle() {
            return;
        }
        let fetched = timeout(
            FETCH_DEADLINE,
            self.deps.upstream.bundle(&self.trust_domain),
        );
        let Ok(Ok(Some(own))) = fetched.await else {
            return;
        };
        if let Ok(bundles) = self.held.fetched(own) {
            self.deps
                .driver
                .changed(Some(bundles), Vec::new(), Vec::new());
        }
    }

    /// What a failed feed leaves behind is not built upon.
    fn lose(&mut self, error: &UpstreamError) {
        match error {
            UpstreamError::Unavailable(_) | UpstreamError::UnknownAuthority(_) => {
                self.deps.upstream.hang_up();
            }
            UpstreamError::Protocol { .. } | UpstreamError::Refused { .. } => self.held.doubt(),
            UpstreamError::Denied(_) | UpstreamError::Overloaded { .. } => {}
        }
    }

    fn poll(&mut self) {
        let spread = random::jitter(NO_FEED / 5);
        self.way = Way::Polling {
            until: self.deps.clock.now() + NO_FEED + spread,
        };
    }
}

impl Live {
    /// The next part. Silence for twice as long as the server may be silent is the end: a connection
    /// that lost its other end says nothing either.
    async fn next(&mut self) -> Result<Part, UpstreamError> {
        let longest = self.followed.keepalive * 2;
        let silent =
            || UpstreamError::Unavailable("nothing came over the feed for too long".into());
        match timeout(longest, self.followed.parts.next()).await {
            Ok(Some(part)) => part,
            Ok(None) => Err(UpstreamError::Unavailable("the feed ended".into())),
            Err(_late) => Err(silent()),
        }
    }
}
