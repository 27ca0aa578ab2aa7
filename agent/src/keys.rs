//! Keys of workloads.
//!
//! Every X509-SVID gets a key of its own, made on this node; the server sees the public half only.

use std::sync::Arc;

use identity::key::{KeyAlgorithm, PrivateKey};
use identity::spiffe_id::SpiffeId;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize, SanType};
use zeroize::Zeroizing;

/// A new key and the request to have it certified.
#[derive(Debug)]
pub struct WorkloadKey {
    pub key: Arc<PrivateKey>,
    /// The certificate signing request, DER.
    pub csr: Vec<u8>,
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadKeyError {
    /// The algorithm is none that the agent makes keys of.
    #[error("workload keys of the type `{0:?}` are not supported")]
    Algorithm(KeyAlgorithm),
    #[error("could not generate a key")]
    Generate(#[source] rcgen::Error),
    #[error("could not use the generated key")]
    Key(#[source] identity::key::KeyError),
    #[error("could not write the certificate signing request")]
    Request(#[source] rcgen::Error),
}

impl WorkloadKeyError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Algorithm(_) => "key_algorithm",
            Self::Generate(_) => "key_generation",
            Self::Key(_) => "key_use",
            Self::Request(_) => "csr",
        }
    }
}

/// Makes a key and a request that names the SPIFFE ID. Takes long for RSA.
pub fn new_workload_key(
    algorithm: KeyAlgorithm,
    id: &SpiffeId,
) -> Result<WorkloadKey, WorkloadKeyError> {
    new_named_key(algorithm, id, &[])
}

/// The same, and the request names these DNS names too. A server looks at them only when an operator
/// has an SVID minted.
pub fn new_named_key(
    algorithm: KeyAlgorithm,
    id: &SpiffeId,
    dns_names: &[String],
) -> Result<WorkloadKey, WorkloadKeyError> {
    let pair = generate(algorithm)?;
    let csr = request(&pair, id, dns_names).map_err(WorkloadKeyError::Request)?;
    let key = PrivateKey::from_pkcs8_der(Zeroizing::new(pair.serialize_der()))
        .map_err(WorkloadKeyError::Key)?;
    Ok(WorkloadKey {
        key: Arc::new(key),
        csr,
    })
}

fn generate(algorithm: KeyAlgorithm) -> Result<KeyPair, WorkloadKeyError> {
    match algorithm {
        KeyAlgorithm::EcP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyAlgorithm::EcP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyAlgorithm::Rsa(2048) => {
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)
        }
        KeyAlgorithm::Rsa(4096) => {
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096)
        }
        other => return Err(WorkloadKeyError::Algorithm(other)),
    }
    .map_err(WorkloadKeyError::Generate)
}

fn request(pair: &KeyPair, id: &SpiffeId, dns_names: &[String]) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    // rcgen puts a name of its own here. Servers take the public key alone.
    params.distinguished_name = DistinguishedName::new();
    for name in dns_names {
        let name = SanType::DnsName(Ia5String::try_from(name.as_str())?);
        params.subject_alt_names.push(name);
    }
    params
        .subject_alt_names
        .push(SanType::URI(Ia5String::try_from(id.as_str())?));
    Ok(params.serialize_request(pair)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use identity::x509::Csr;

    use super::*;

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://example.org/web").unwrap()
    }

    #[test]
    fn a_request_is_signed_by_its_key_and_names_the_identity() {
        for algorithm in [
            KeyAlgorithm::EcP256,
            KeyAlgorithm::EcP384,
            KeyAlgorithm::Rsa(2048),
        ] {
            let made = new_workload_key(algorithm, &id()).unwrap();
            let request = Csr::parse_and_verify(&made.csr).unwrap();
            assert_eq!(made.key.algorithm(), algorithm);
            assert_eq!(request.public_key(), made.key.public_key());
            assert_eq!(request.uris().collect::<Vec<_>>(), [Some(id().as_str())]);
            // An empty sequence after the version: nobody is named beside the SPIFFE ID.
            let parsed = rcgen::CertificateSigningRequestParams::from_der(&made.csr.clone().into());
            let name = parsed.unwrap().params.distinguished_name;
            assert_eq!(name.iter().count(), 0);
        }
    }

    #[test]
    fn no_two_keys_are_the_same() {
        let make = || new_workload_key(KeyAlgorithm::EcP256, &id()).unwrap();
        assert_ne!(make().key.public_key(), make().key.public_key());
    }

    #[test]
    fn an_algorithm_that_servers_do_not_certify_is_refused() {
        let refused = new_workload_key(KeyAlgorithm::Rsa(1024), &id()).unwrap_err();
        assert_eq!(refused.reason(), "key_algorithm");
    }
}
