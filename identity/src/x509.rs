//! X.509: certificates, certificate requests, X509-SVIDs, and the verdict on a peer's chain.
//!
//! This is the only X.509 reader of the project. Paths are built and signatures of chains checked
//! by webpki; the rules of X509-SVID stand here.

mod authority;
mod certificate;
mod chain;
mod csr;
mod distinguished;
mod extensions;
mod leaf;
mod name;
mod paths;
mod signature;
mod svid;

pub use authority::{AuthorityError, find_root};
pub use certificate::{
    Certificate, CertificateError, MAX_CERTIFICATE_BYTES, MAX_LIST_BYTES, parse_concatenated_der,
    parse_pem_certificates, to_pem,
};
pub use chain::{
    MAX_CHAIN, NotThePeer, Purpose, VerifyError, verify_named_peer_der, verify_peer,
    verify_peer_der,
};
pub use csr::{Csr, CsrError, MAX_CSR_BYTES};
pub use distinguished::{Attribute, DistinguishedName, NameError};
pub use extensions::KeyUsage;
pub use leaf::{LeafError, check_leaf, check_peer_leaf};
pub use paths::authorities_above;
pub use signature::Signed;
pub use svid::{SvidError, X509Svid};

#[cfg(test)]
mod tests;
