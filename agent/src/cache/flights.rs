//! One request for all who want the same JWT-SVID at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::jwt::JwtSvid;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::jwt::JwtKey;
use crate::upstream::UpstreamError;

/// How many different JWT-SVIDs may be asked for at once.
const MOST: usize = 1000;

/// How a request ended; `None` while it has not.
pub(super) type Landing = Option<Result<JwtSvid, Arc<UpstreamError>>>;

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<BTreeMap<JwtKey, watch::Receiver<Landing>>>);

/// How to take part in a request.
pub(super) enum Boarding {
    /// Somebody made it already.
    Joined(watch::Receiver<Landing>),
    /// The caller has to make it, and to land it with [`Flights::land`].
    Started(watch::Sender<Landing>),
    /// There are too many.
    Full,
}

impl Flights {
    pub(super) fn board(&self, key: &JwtKey) -> Boarding {
        let mut under_way = self.0.lock();
        if let Some(landing) = under_way.get(key) {
            return Boarding::Joined(landing.clone());
        }
        if under_way.len() >= MOST {
            return Boarding::Full;
        }
        let (sender, landing) = watch::channel(None);
        under_way.insert(key.clone(), landing);
        Boarding::Started(sender)
    }

    /// Ends a request. Whoever boards from now on makes a new one.
    pub(super) fn land(
        &self,
        key: &JwtKey,
        sender: &watch::Sender<Landing>,
        outcome: Result<JwtSvid, Arc<UpstreamError>>,
    ) {
        self.0.lock().remove(key);
        sender.send_replace(Some(outcome));
    }
}
