//! The X509-SVID of this server itself, with which it answers TLS.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use identity::{
    bundle::Bundle,
    key::PrivateKey,
    spiffe_id::SpiffeId,
    validity::{Renewal, Schedule},
    x509::{Certificate, Purpose, X509Svid, verify_peer},
};
use zeroize::Zeroizing;

use super::{
    Config, SignError, X509SvidRequest,
    x509::{Subject, X509Ca},
};

/// Issues them. Each has a key of its own, which never leaves the process.
pub(super) struct ServerSvid;

impl ServerSvid {
    pub(super) fn issue(
        config: &Config,
        authority: &X509Ca,
        now: SystemTime,
    ) -> Result<X509Svid, SignError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).or(Err(SignError::Key))?;
        let der = pair.to_pkcs8v1().or(Err(SignError::Key))?;
        let key = PrivateKey::from_pkcs8_der(Zeroizing::new(der.as_ref().to_vec()))?;
        let id = SpiffeId::server(&config.trust_domain);
        let request = X509SvidRequest {
            id: &id,
            public_key: key.public_key(),
            dns_names: &[],
            ttl: config.server_svid_ttl,
            subject: Subject::Server,
            name: None,
        };
        let issued = authority.sign(&request, now)?;
        // This reads it back as any peer does: a test of the issuer at each start and renewal.
        let chain = issued.chain.iter().map(|der| Certificate::parse(der));
        let chain = chain
            .collect::<Result<_, _>>()
            .map_err(SignError::ReadBack)?;
        Ok(X509Svid::new(chain, Arc::new(key))?)
    }

    /// Whether `svid` is to be replaced: from half of its life on, and at once when no authority of the
    /// bundle that is not tainted vouches for it.
    pub(super) fn is_due(svid: &X509Svid, bundle: &Bundle, now: SystemTime) -> bool {
        let sound = bundle.x509_authorities.iter();
        let sound = sound.filter(|authority| !authority.tainted);
        let mut trusted = Bundle::new(bundle.trust_domain.clone());
        trusted.x509_authorities = sound.cloned().collect();
        let verdict = verify_peer(svid.chain(), Purpose::ServerAuth, |_| Some(trusted), now);
        let is_sound = verdict.is_ok();
        let schedule = Schedule::new(svid.validity(), Duration::ZERO);
        !is_sound || !matches!(schedule.renewal(now), Renewal::At(_))
    }
}
