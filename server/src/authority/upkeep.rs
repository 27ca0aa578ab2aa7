//! The tasks that keep the authorities up: rotate, prune, and follow the own bundle.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::bundle::Bundle;
use runtime::{failpoint, report, shutdown::Shutdown};
use tracing::{error, info, warn};

use super::{Authorities, RotateError, server_svid::ServerSvid};
use crate::{
    bundles::{self, PRUNE_INTERVAL, Pruned, Updated},
    store::{Change, Family, Key, Revision, StoreError, Txn, Watch, WatchEvent},
};

/// How often the authorities look whether something is due, at the least. SPIRE's interval.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

impl Authorities {
    /// Performs what is due.
    async fn check(&self) -> Result<(), RotateError> {
        let now = self.0.clock.now();
        let mut keepers = self.0.keepers.lock().await;
        let settled = keepers.settle(&self.0.config, now).await;
        // What was stored counts, also when a later step failed.
        self.sign_with(&keepers);
        drop(keepers);
        settled?;
        let bundle = Arc::clone(&self.0.bundle.borrow());
        self.renew_server_svid(&bundle, now)
    }

    /// Replaces this server's own SVID if it is time, or if `bundle` no longer speaks for it.
    pub(super) fn renew_server_svid(
        &self,
        bundle: &Bundle,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        if !ServerSvid::is_due(&self.0.server_svid.borrow(), bundle, now) {
            return Ok(());
        }
        let svid = ServerSvid::issue(&self.0.config, &self.0.active.load().x509, now)?;
        failpoint::reach("server_svid", "issued");
        info!(
            svid.serial = svid.leaf().serial_decimal(),
            "Server's own X509-SVID renewed"
        );
        self.0.server_svid.send_replace(Arc::new(svid));
        Ok(())
    }

    pub(super) async fn keep_up(self, shutdown: Shutdown) {
        let mut prune_at = self.0.clock.now() + PRUNE_INTERVAL;
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.rest() => {}
            }
            if let Err(cause) = self.check().await {
                error!(
                    error.reason = cause.reason(),
                    error = report::chain(&cause).to_string(),
                    "Could not rotate the authorities; trying again"
                );
            }
            if self.0.clock.now() >= prune_at {
                prune_at = self.0.clock.now() + PRUNE_INTERVAL;
                self.prune().await;
            }
        }
    }

    /// Waits for the next look. Authorities that live for seconds would be over after the usual time.
    async fn rest(&self) {
        let now = self.0.clock.now();
        let due = self.0.keepers.lock().await.next_due(now);
        let left = due.and_then(|due| due.duration_since(now).ok());
        let pause = left.map_or(CHECK_INTERVAL, |left| left.min(CHECK_INTERVAL));
        self.0.clock.sleep(pause).await;
    }

    async fn prune(&self) {
        let now = self.0.clock.now();
        let mut outcome = Pruned::Unchanged;
        let nothing_else = Txn::new();
        let updated = bundles::update(
            &self.0.store,
            &self.0.config.trust_domain,
            &nothing_else,
            |bundle| {
                outcome = bundles::prune(bundle, now);
                outcome == Pruned::Changed
            },
        );
        match (updated.await, outcome) {
            (Err(cause), _) => warn!(
                error.reason = cause.reason(),
                error = report::chain(&cause),
                "Could not prune the bundle"
            ),
            (Ok(_), Pruned::Refused) => {
                warn!("Every authority of a kind in the bundle has ended; none was pruned");
            }
            (Ok(Updated::Made { bundle, .. }), Pruned::Changed) => {
                info!(
                    bundle.sequence = bundle.sequence,
                    "Ended authorities pruned from the bundle"
                );
            }
            (Ok(_), _) => {}
        }
    }

    pub(super) async fn follow_bundle(self, from: Revision, shutdown: Shutdown) {
        let mut watch = self.0.store.watch(from);
        loop {
            let event = tokio::select! {
                () = shutdown.requested() => return,
                event = watch.next() => event,
            };
            match event {
                WatchEvent::Change(change) => self.take_bundle(&change),
                WatchEvent::Restart => match self.reread_bundle().await {
                    Ok(restarted) => watch = restarted,
                    Err(cause) => {
                        warn!(error.reason = cause.reason(), error = %cause, "Could not read the own bundle; trying again");
                        self.0.clock.sleep(CHECK_INTERVAL).await;
                    }
                },
                WatchEvent::Closed => return,
            }
        }
    }

    fn take_bundle(&self, change: &Change) {
        let key = Key::bundle(&self.0.config.trust_domain);
        for record in change
            .puts
            .iter()
            .filter(|record| record.key.family() == Some(Family::Bundle))
        {
            if record.key != key {
                continue;
            }
            match bundles::from_record(&record.value) {
                Ok(bundle) => {
                    self.0.bundle.send_replace(Arc::new(bundle));
                }
                // The last good one stays.
                Err(cause) => error!(error = %cause, "Stored own bundle is damaged"),
            }
        }
    }

    async fn reread_bundle(&self) -> Result<Watch, StoreError> {
        let (revision, records) = self.0.store.snapshot().await?;
        self.take_bundle(&Change {
            revision,
            puts: records,
            deletes: Vec::new(),
        });
        Ok(self.0.store.watch(revision))
    }
}
