//! The state under arbitrary histories, and the driver at work.

mod driver;
mod properties;
mod restore;
mod simulation;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use identity::entry::{Entry, EntryId};
use identity::key::KeyAlgorithm;
use identity::spiffe_id::SpiffeId;
use identity::x509::X509Svid;
use workload_api::source::Update;

use super::*;
use crate::keys::{WorkloadKey, new_workload_key};
use crate::rotation;
use crate::upstream::fake::{self, Ca, epoch};

/// Keys are not what is tested here, so one serves for all.
static KEY: LazyLock<WorkloadKey> = LazyLock::new(|| {
    let id = SpiffeId::from_path(&fake::trust_domain(), "/any").unwrap();
    new_workload_key(KeyAlgorithm::EcP256, &id).unwrap()
});

pub(crate) const TTL: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> SystemTime {
    epoch() + Duration::from_secs(seconds)
}

pub(crate) fn signed(ca: &Ca, entry: &Entry, now: SystemTime, ttl: Duration) -> Signed {
    let chain = ca.sign(&KEY.csr, &entry.spiffe_id, now, ttl);
    let svid = X509Svid::new(chain, Arc::clone(&KEY.key)).unwrap();
    let schedule = rotation::Strategy::default().plan(svid.validity(), |_| Duration::ZERO);
    Signed { svid, schedule }
}

fn bundles(authorities: &[&Ca]) -> Event {
    let certificates: Vec<_> = authorities.iter().map(|ca| &ca.certificate).collect();
    Event::Bundles {
        own: Arc::new(fake::bundle(&certificates)),
        federated: BTreeMap::new(),
    }
}

fn synced(entries: &[Entry]) -> Event {
    Event::Synced(entries.iter().cloned().map(Arc::new).collect())
}
