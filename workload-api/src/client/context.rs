//! What a client makes of a message.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use identity::bundle::{Bundle, BundleError};
use identity::key::PrivateKey;
use identity::trust_domain::TrustDomain;
use identity::x509::{X509Svid, parse_concatenated_der};
use proto::workload::{X509svid, X509svidResponse};
use zeroize::Zeroizing;

use super::ClientError;

/// The X509-SVIDs of a workload, and whom it may trust.
#[derive(Debug)]
pub struct X509Context {
    /// In the agent's order. The first one is the default, and there is one.
    pub svids: Vec<ClientSvid>,
    /// The bundles of other trust domains. One that is missing is not trusted any more.
    pub federated: BTreeMap<TrustDomain, Bundle>,
}

/// One X509-SVID as a workload gets it.
#[derive(Debug)]
pub struct ClientSvid {
    /// The chain with its key.
    pub svid: X509Svid,
    /// What the operator says about this identity.
    pub hint: Option<String>,
    /// The bundle of the SVID's own trust domain.
    pub bundle: Bundle,
}

impl X509Context {
    pub(super) fn parse(message: X509svidResponse) -> Result<Self, ClientError> {
        // Workload API 5.2.1: one or more.
        if message.svids.is_empty() {
            return Err(ClientError::Incomplete);
        }
        let mut svids: Vec<ClientSvid> = Vec::with_capacity(message.svids.len());
        for svid in message.svids {
            let svid = ClientSvid::parse(svid)?;
            // Workload API 5.2.1: of a repeated hint the first one counts.
            let repeated = |other: &ClientSvid| svid.hint.is_some() && other.hint == svid.hint;
            if !svids.iter().any(repeated) {
                svids.push(svid);
            }
        }
        Ok(Self {
            svids,
            federated: bundles(message.federated_bundles, Bundle::from_x509_der)?,
        })
    }
}

impl ClientSvid {
    fn parse(message: X509svid) -> Result<Self, ClientError> {
        let mandatory = [&message.x509_svid, &message.x509_svid_key, &message.bundle];
        // Workload API 4.5: a mandatory field at its default spoils the message.
        if message.spiffe_id.is_empty() || mandatory.into_iter().any(Bytes::is_empty) {
            return Err(ClientError::Incomplete);
        }
        let chain = parse_concatenated_der(&message.x509_svid).map_err(ClientError::Certificate)?;
        let key = PrivateKey::from_pkcs8_der(Zeroizing::new(message.x509_svid_key.to_vec()))
            .map_err(ClientError::Key)?;
        let svid = X509Svid::new(chain, Arc::new(key)).map_err(ClientError::Svid)?;
        if svid.id().as_str() != message.spiffe_id {
            return Err(ClientError::OtherId);
        }
        let trust_domain = svid.id().trust_domain().clone();
        Ok(Self {
            bundle: Bundle::from_x509_der(trust_domain, &message.bundle)
                .map_err(ClientError::Bundle)?,
            hint: Some(message.hint).filter(|hint| !hint.is_empty()),
            svid,
        })
    }
}

pub(super) fn bundles(
    map: BTreeMap<String, Bytes>,
    parse: fn(TrustDomain, &[u8]) -> Result<Bundle, BundleError>,
) -> Result<BTreeMap<TrustDomain, Bundle>, ClientError> {
    map.into_iter()
        .map(|(id, bytes)| {
            let trust_domain = TrustDomain::parse(&id).map_err(ClientError::TrustDomain)?;
            let bundle = parse(trust_domain.clone(), &bytes).map_err(ClientError::Bundle)?;
            Ok((trust_domain, bundle))
        })
        .collect()
}
