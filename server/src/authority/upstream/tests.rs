//! An authority above that is a server in this process: the smallest honest one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use identity::{
    bundle::{Bundle, JwtAuthority},
    x509::{Certificate, find_root},
};

use super::{CaRequest, Minted, Source, Upstream, UpstreamError};
use crate::{
    authority::Authorities,
    bundles::{self, Additions},
    store::{Store, Txn},
};

/// The authorities of the server above, and its store.
#[derive(Clone, Debug)]
pub(in crate::authority) struct Beside {
    pub(in crate::authority) authorities: Authorities,
    pub(in crate::authority) store: Store,
    /// Whether nobody reaches it.
    pub(in crate::authority) is_away: Arc<AtomicBool>,
}

impl Upstream {
    pub(in crate::authority) fn beside(server: Beside) -> Self {
        Self(Arc::new(Source::Beside(server)))
    }
}

impl Beside {
    pub(super) fn mint(
        &self,
        request: CaRequest<'_>,
        now: SystemTime,
    ) -> Result<Minted, UpstreamError> {
        self.check()?;
        let key = request.signer.public_key();
        let issued = self
            .authorities
            .sign_downstream_ca(key, Some(request.ttl), now);
        let issued = issued.or(Err(UpstreamError::Ended))?;
        let chain = issued.chain.iter().map(|der| Certificate::parse(der));
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let roots: Vec<_> = self.bundle()?.certificates().cloned().collect();
        let root = find_root(&chain, &roots, now)
            .or(Err(UpstreamError::Profile))?
            .clone();
        Ok(Minted { chain, roots, root })
    }

    pub(super) async fn publish(&self, authority: &JwtAuthority) -> Result<(), UpstreamError> {
        self.check()?;
        Box::pin(self.authorities.publish_above(authority)).await?;
        let additions = Additions {
            jwt: vec![authority.clone()],
            ..Additions::default()
        };
        let own = self.bundle()?.trust_domain;
        let append = |bundle: &mut Bundle| bundles::append(bundle, &additions).unwrap_or(false);
        let updated = bundles::update(&self.store, &own, &Txn::new(), append).await;
        updated.map_or(Err(UpstreamError::Away), |_| Ok(()))
    }

    pub(super) fn bundle(&self) -> Result<Bundle, UpstreamError> {
        self.check()?;
        Ok(Bundle::clone(&self.authorities.own_bundle().borrow()))
    }

    fn check(&self) -> Result<(), UpstreamError> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(UpstreamError::Away),
            false => Ok(()),
        }
    }
}
