//! What SVIDs say beside what their entries say (SPIRE's `CredentialComposer`).

use identity::{
    spiffe_id::SpiffeId,
    x509::{Attribute, DistinguishedName},
};
use sha2::{Digest as _, Sha256};

use super::x509::{Subject, X509SvidRequest, leaf_name};

/// How much of the hash names a workload: 128 bits, as in SPIRE.
const UNIQUE_BYTES: usize = 16;

/// Who adds to SVIDs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Composer {
    /// Gives the X509-SVIDs of each workload a subject of its own (SPIRE's plugin `uniqueid`): to RFC 5280
    /// 4.1.2.6 a subject names one entity alone, and to old programs all workloads would be one.
    UniqueId,
}

impl Composer {
    /// Whom a leaf is to name, if that is another than what was asked for.
    pub(super) fn name(self, request: &X509SvidRequest<'_>) -> Option<DistinguishedName> {
        match (self, request.subject) {
            (Self::UniqueId, Subject::Workload) => {
                let asked = request.name.cloned().unwrap_or_else(leaf_name);
                Some(asked.with(Attribute::UniqueIdentifier, unique_id(request.id)))
            }
            (Self::UniqueId, Subject::Agent | Subject::Server) => None,
        }
    }
}

fn unique_id(id: &SpiffeId) -> String {
    let mut digest = hex::encode(Sha256::digest(id.as_str()));
    digest.truncate(2 * UNIQUE_BYTES);
    digest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::key::PublicKey;
    use rcgen::{KeyPair, PublicKeyData as _};

    use super::*;

    #[test]
    fn a_workload_alone_gets_a_subject_of_its_own() {
        let key = KeyPair::generate().unwrap();
        let public_key = PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/workload").unwrap();
        let asked = DistinguishedName::default().with(Attribute::CommonName, "asked");
        let named = |subject, name| {
            let request = X509SvidRequest {
                id: &id,
                public_key: &public_key,
                dns_names: &[],
                ttl: Duration::from_secs(60),
                subject,
                name,
            };
            let name = Composer::UniqueId.name(&request)?;
            let attributes = name.iter().map(|(attribute, _)| attribute);
            Some(attributes.collect::<Vec<_>>())
        };
        let (usual, last) = (leaf_name(), Attribute::UniqueIdentifier);
        let usual = usual.iter().map(|(attribute, _)| attribute);
        assert_eq!(
            named(Subject::Workload, None),
            Some(usual.chain([last]).collect())
        );
        assert_eq!(
            named(Subject::Workload, Some(&asked)),
            Some(vec![Attribute::CommonName, last])
        );
        assert_eq!(named(Subject::Agent, None), None);
        assert_eq!(named(Subject::Server, None), None);
    }

    #[test]
    fn a_unique_id_is_half_of_a_hash_of_the_spiffe_id() {
        // As `printf spiffe://example.org/workload | sha256sum` has it.
        let id = SpiffeId::parse("spiffe://example.org/workload").unwrap();
        assert_eq!(unique_id(&id), "9329e28c9448787df0fcb3c655605e51");
    }
}
