//! Streams that go on for as long as their caller is a delegate.

use std::sync::Arc;

use futures_util::stream;
use identity::bundle::Bundle;
use proto::spire::agent::delegatedidentity::SubscribeToX509sviDsResponse;
use tokio::sync::watch;
use tonic::Status;
use workload_api::source::Subscription;

use super::delegate::{Delegate, Target};
use super::{Answers, encode, shutting_down};
use crate::upstream::Upstream;

/// Something with a next message. An error is its last.
pub(super) trait Messages: Send + 'static {
    type Message: Send;

    fn next(&mut self) -> impl Future<Output = Result<Self::Message, Status>> + Send;
}

pub(super) fn messages<M: Messages>(source: M) -> Answers<M::Message> {
    let next = |source: Option<M>| async {
        let mut source = source?;
        match source.next().await {
            Ok(message) => Some((Ok(message), Some(source))),
            Err(status) => Some((Err(status), None)),
        }
    };
    Box::pin(stream::unfold(Some(source), next))
}

/// The X509-SVIDs of one workload.
pub(super) struct X509Svids<U> {
    delegate: Delegate<U>,
    target: Target,
    subscription: Subscription,
}

impl<U: Upstream> X509Svids<U> {
    pub(super) fn new(delegate: Delegate<U>, target: Target) -> Self {
        let subscription = delegate.shared().driver.subscribe(target.selectors());
        Self {
            delegate,
            target,
            subscription,
        }
    }
}

impl<U: Upstream> Messages for X509Svids<U> {
    type Message = SubscribeToX509sviDsResponse;

    async fn next(&mut self) -> Result<Self::Message, Status> {
        let shared = Arc::clone(self.delegate.shared());
        loop {
            let is_due = async {
                tokio::select! {
                    () = self.delegate.is_due() => {}
                    () = self.target.suspect() => {}
                }
            };
            tokio::select! {
                biased;
                () = shared.shutdown.requested() => return Err(shutting_down()),
                status = self.target.exited() => return Err(status),
                () = is_due => {
                    self.delegate.attest_again().await?;
                    let before = self.target.selectors().clone();
                    self.target.attest_again(&shared).await?;
                    if before != *self.target.selectors() {
                        self.subscription = shared.driver.subscribe(self.target.selectors());
                    }
                }
                update = self.subscription.next() => {
                    let update = update.ok_or_else(shutting_down)?;
                    // Nothing is sent that is not allowed now, whatever was allowed before.
                    self.delegate.check()?;
                    let entries = shared.entries_for(self.target.selectors());
                    return Ok(encode::x509_svids(&update, &entries));
                }
            }
        }
    }
}

/// Every bundle that the agent has.
pub(super) struct Bundles<U, M> {
    delegate: Delegate<U>,
    changes: watch::Receiver<u64>,
    is_first: bool,
    encode: fn(&[Arc<Bundle>]) -> M,
}

impl<U: Upstream, M> Bundles<U, M> {
    pub(super) fn new(delegate: Delegate<U>, encode: fn(&[Arc<Bundle>]) -> M) -> Self {
        Self {
            changes: delegate.shared().driver.bundles_version(),
            delegate,
            is_first: true,
            encode,
        }
    }
}

impl<U: Upstream, M: Send + 'static> Messages for Bundles<U, M> {
    type Message = M;

    async fn next(&mut self) -> Result<M, Status> {
        let shared = Arc::clone(self.delegate.shared());
        while !std::mem::take(&mut self.is_first) {
            tokio::select! {
                biased;
                () = shared.shutdown.requested() => return Err(shutting_down()),
                changed = self.changes.changed() => match changed {
                    Ok(()) => break,
                    Err(_ended) => return Err(shutting_down()),
                },
                () = self.delegate.is_due() => self.delegate.attest_again().await?,
            }
        }
        self.delegate.check()?;
        Ok((self.encode)(&shared.driver.all_bundles()))
    }
}
