//! The answer of `FetchX509SVID`, parsed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use identity::bundle::Bundle;
use identity::key::PrivateKey;
use identity::spiffe_id::SpiffeId;
use identity::x509::{Certificate, Purpose, parse_concatenated_der, verify_peer};
use proto::workload::{X509svid, X509svidResponse};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// One X509-SVID with what came beside it.
#[derive(Debug)]
pub(crate) struct Svid {
    pub(crate) id: String,
    pub(crate) hint: String,
    pub(crate) chain: Vec<Certificate>,
    pub(crate) key: PrivateKey,
    pub(crate) bundle: Vec<Certificate>,
    /// By the SPIFFE ID of the foreign trust domain.
    pub(crate) federated: Arc<BTreeMap<String, Vec<Certificate>>>,
}

impl Svid {
    /// Parses all SVIDs of an answer.
    pub(crate) fn of(answer: &X509svidResponse) -> Result<Vec<Self>, Failure> {
        if answer.svids.is_empty() {
            return Err(Failure::new("workload response contains no svids"));
        }
        let mut federated = BTreeMap::new();
        for (id, der) in &answer.federated_bundles {
            let certificates = parse_concatenated_der(der).map_err(|error| {
                Failure::chain(&error).context(format_args!(
                    "failed to parse bundle for federated domain {id:?}"
                ))
            })?;
            if certificates.is_empty() {
                return Err(Failure::new(format!(
                    "no certificates in bundle for federated domain {id:?}"
                )));
            }
            federated.insert(id.clone(), certificates);
        }
        let federated = Arc::new(federated);
        let svids = answer.svids.iter().enumerate();
        svids
            .map(|(at, svid)| {
                Self::parse(svid, &federated).map_err(|failure| {
                    failure.context(format_args!(
                        "failed to parse svid entry {at} for spiffe id {:?}",
                        svid.spiffe_id
                    ))
                })
            })
            .collect()
    }

    fn parse(
        svid: &X509svid,
        federated: &Arc<BTreeMap<String, Vec<Certificate>>>,
    ) -> Result<Self, Failure> {
        let failed = |tried: &'static str| {
            move |error: identity::x509::CertificateError| Failure::chain(&error).context(tried)
        };
        let chain =
            parse_concatenated_der(&svid.x509_svid).map_err(|error| Failure::chain(&error))?;
        if chain.is_empty() {
            return Err(Failure::new("no certificates found"));
        }
        let key = PrivateKey::from_pkcs8_der(Zeroizing::new(svid.x509_svid_key.to_vec()))
            .map_err(|error| Failure::chain(&error).context("failed to parse private key"))?;
        let bundle =
            parse_concatenated_der(&svid.bundle).map_err(failed("failed to parse trust bundle"))?;
        if bundle.is_empty() {
            return Err(Failure::new("no certificates in trust bundle"));
        }
        Ok(Self {
            id: svid.spiffe_id.clone(),
            hint: svid.hint.clone(),
            chain,
            key,
            bundle,
            federated: Arc::clone(federated),
        })
    }

    /// Verifies the chain against the bundle that came with it (X509-SVID 5).
    pub(crate) fn verify(&self, now: SystemTime) -> Result<SpiffeId, Failure> {
        let id = SpiffeId::parse(&self.id).map_err(|error| Failure::chain(&error))?;
        let bundle =
            Bundle::from_certificates(id.trust_domain().clone(), self.bundle.iter().cloned());
        let own = |trust_domain: &_| (*trust_domain == bundle.trust_domain).then_some(&bundle);
        let refused = || format!("{:?} SVID failed verification against bundle", self.id);
        let found = verify_peer(&self.chain, Purpose::ServerAuth, own, now)
            .map_err(|error| Failure::chain(&error).context(refused()))?;
        if found != id {
            return Err(Failure::new(format!("{}: it is {found}", refused())));
        }
        Ok(id)
    }
}
