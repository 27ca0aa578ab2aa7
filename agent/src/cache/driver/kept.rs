//! What is kept over a restart, and brought back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use identity::entry::{Entry, EntryId};
use identity::jwt::JwtSvid;
use identity::validity::Validity;
use runtime::random;
use runtime::shutdown::Shutdown;
use tracing::info;

use super::Driver;
use crate::cache::{Event, Refused, Restored, Signed};
use crate::rotation::Strategy;
use crate::sealed::{Item, Ticket};
use crate::upstream::{Denial, Upstream};

/// How soon after a change what is kept is compared with what there is.
const PAUSE: Duration = Duration::from_millis(200);
/// How soon it is compared without a change: whatever failed is begun anew.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl<U: Upstream> Driver<U> {
    /// Takes what was kept before the agent's restart. `true` says that there is something to serve.
    pub fn restore(self: &Arc<Self>, items: Vec<Item>) -> bool {
        let restored = self.sorted(items);
        let mut inner = self.inner.lock();
        self.apply_locked(&mut inner, Event::Restored(restored));
        let census = inner.state.census();
        let is_of_use = census.x509_svids + census.jwt_svids > 0;
        if is_of_use {
            info!(
                entries = census.entries,
                x509_svids = census.x509_svids,
                jwt_svids = census.jwt_svids,
                "Restored what was kept in the sealed cache"
            );
        }
        is_of_use
    }

    /// Bundles first, then entries, then what was signed for them.
    fn sorted(&self, items: Vec<Item>) -> Vec<Restored> {
        let now = self.deps.clock.now();
        let (mut own, mut federated) = (None, BTreeMap::new());
        let (mut entries, mut svids) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Format => {}
                Item::Own(bundle) => own = Some(bundle),
                Item::Federated(bundle) => {
                    federated.insert(bundle.trust_domain.clone(), bundle);
                }
                Item::Entry(entry) => entries.push(Restored::Entry(entry)),
                Item::X509 {
                    entry_id,
                    revision,
                    svid,
                } => {
                    let rotation = self.options.rotation;
                    let schedule = rotation.plan_apart(svid.validity(), now, random::jitter);
                    svids.push(Restored::X509 {
                        entry_id,
                        revision,
                        signed: Signed { svid, schedule },
                    });
                }
                Item::Jwt {
                    entry_id,
                    revision,
                    svid,
                } => {
                    let begin = svid.issued_at().unwrap_or(now);
                    if let Ok(validity) = Validity::new(begin, svid.expires_at()) {
                        svids.push(Restored::Jwt {
                            entry_id,
                            revision,
                            schedule: Strategy::default().plan(validity, random::jitter),
                            svid,
                        });
                    }
                }
            }
        }
        // Without a bundle nobody could be told whom to trust, so nothing is of use.
        let Some(own) = own else { return Vec::new() };
        let bundles = Restored::Bundles { own, federated };
        let rest = entries.into_iter().chain(svids);
        std::iter::once(bundles).chain(rest).collect()
    }

    /// Keeps what lies on disk as the state is, until shutdown.
    pub async fn keep_sealed(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            let ends = tokio::select! {
                () = shutdown.requested() => true,
                () = self.deps.sealed.changed() => false,
                () = self.deps.clock.sleep(LONGEST_PAUSE) => false,
            };
            if !ends {
                tokio::select! {
                    () = shutdown.requested() => {}
                    () = self.deps.clock.sleep(PAUSE) => {}
                }
            }
            let (driver, now) = (Arc::clone(&self), self.deps.clock.now());
            let look = move || driver.inner.lock().state.keepsakes(now);
            self.deps.sealed.reconcile(look, now).await;
            if ends {
                return;
            }
        }
    }

    /// Keeps freshly signed X509-SVIDs, with their entries and the bundles, before a workload sees them.
    pub(super) async fn keep_signed(
        &self,
        entries: &[Arc<Entry>],
        answers: &BTreeMap<EntryId, Result<Signed, Refused>>,
    ) -> Ticket {
        let mut items = Vec::new();
        for entry in entries {
            if let Some(Ok(signed)) = answers.get(&entry.id) {
                items.push(Item::Entry(Arc::clone(entry)));
                items.push(Item::X509 {
                    entry_id: entry.id.clone(),
                    revision: (entry.revision, entry.created_at),
                    svid: signed.svid.clone(),
                });
            }
        }
        self.keep_with_bundles(items).await
    }

    /// Keeps a JWT-SVID before a workload sees it.
    pub(super) async fn keep_token(&self, entry: &Arc<Entry>, svid: &JwtSvid) -> Ticket {
        let item = Item::Jwt {
            entry_id: entry.id.clone(),
            revision: (entry.revision, entry.created_at),
            svid: svid.clone(),
        };
        self.keep_with_bundles(vec![Item::Entry(Arc::clone(entry)), item])
            .await
    }

    async fn keep_with_bundles(&self, mut items: Vec<Item>) -> Ticket {
        if !items.is_empty() {
            items.extend(self.inner.lock().state.bundles_to_keep());
        }
        self.deps.sealed.keep(items).await
    }

    /// Destroys what was revoked, if the server does not take the agent for who it was.
    pub(super) async fn forget_kept(&self, denial: Denial) {
        if denial.ends_identity() {
            let sealed = self.deps.sealed.clone();
            // A panic would leave it to the life cycle, which wipes what is not wiped.
            let _ = tokio::task::spawn_blocking(move || sealed.settle()).await;
        }
    }
}
