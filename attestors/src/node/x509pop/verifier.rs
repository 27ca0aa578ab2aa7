//! The server's half: which agent a certificate stands for, and whether its key is there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use identity::key::{KeyAlgorithm, PublicKey, SignatureScheme};
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, authorities_above, check_peer_leaf};

use super::NAME;
use super::error::VerifyError;
use super::messages::{Asked, Challenge, EcdsaSignature, Payload, Response, RsaSignature};
use super::selectors::{selectors, uri_pairs};
use crate::node::ecdsa::ecdsa_der;
use crate::node::nonce::Nonce;
use crate::node::path_template::{Names, PathTemplate, TemplateError, Value, Values};
use crate::node::{Attested, Circumstances};

const NAMES: Names<'_> = Names {
    texts: &[
        "PluginName",
        "Fingerprint",
        "TrustDomain",
        "Subject.CommonName",
        "SerialNumberHex",
        "SVIDPathTrimmed",
    ],
    lists: &["DNSNames"],
    maps: &["URISanSelectors"],
};

/// How agents are called, as an operator wrote it, or as SPIRE has it for this kind of trust.
pub fn template(text: Option<&str>, trust: &Trust) -> Result<PathTemplate, TemplateError> {
    let default = match trust {
        Trust::Roots(_) => "/{{ .PluginName }}/{{ .Fingerprint }}",
        Trust::OwnDomain { .. } => "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}",
    };
    PathTemplate::parse(text.unwrap_or(default), NAMES)
}

/// Who may certify nodes.
#[derive(Clone, Debug)]
pub enum Trust {
    /// These roots.
    Roots(Vec<Certificate>),
    /// The server itself: X509-SVIDs of its trust domain whose path begins so.
    OwnDomain {
        /// It ends with a slash.
        prefix: String,
    },
}

/// What an operator says of this attestor.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may certify nodes.
    pub trust: Trust,
    /// How agents are called.
    pub template: PathTemplate,
    /// How many certificates beside the leaf are looked at.
    pub max_intermediates: usize,
    /// The longest RSA key, in bits.
    pub max_rsa_bits: u16,
    /// Whether the agent must call from an address that is in its certificate.
    pub verify_client_ip: bool,
}

/// Verifies chains and signatures.
#[derive(Debug)]
pub struct Verifier {
    trust_domain: TrustDomain,
    options: Options,
}

/// A node whose certificate is good, and that has to show that the key is its own. The response is
/// taken once: whoever wants to try another one gets another nonce.
#[derive(Debug)]
pub struct Challenged {
    key: PublicKey,
    challenge: Challenge,
    nonce: Nonce,
    outcome: Attested,
}

impl Verifier {
    /// Makes the verifier of a server of this trust domain.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, options: Options) -> Self {
        Self {
            trust_domain,
            options,
        }
    }

    /// Checks the chain of a payload, and draws a challenge to whoever has the key of its leaf.
    pub fn begin(&self, payload: &[u8], at: Circumstances<'_>) -> Result<Challenged, VerifyError> {
        let payload = Payload::parse(payload, self.options.max_intermediates)?;
        let chain = self.parse(&payload)?;
        let [leaf, ..] = chain.as_slice() else {
            return Err(super::PayloadError::NoCertificate.into());
        };
        let roots = match &self.options.trust {
            Trust::Roots(roots) => roots,
            Trust::OwnDomain { .. } => at.authorities,
        };
        let above = authorities_above(&chain, roots, at.now).map_err(VerifyError::Untrusted)?;
        if self.options.verify_client_ip {
            check_address(leaf, at.from)?;
        }
        if leaf.serial().first().is_some_and(|byte| byte & 0x80 != 0) {
            return Err(VerifyError::Serial);
        }
        let outcome = self.outcome(leaf, &above)?;
        let nonce = Nonce::draw();
        Ok(Challenged {
            key: leaf.public_key().clone(),
            challenge: challenge(leaf, nonce)?,
            nonce,
            outcome,
        })
    }

    fn parse(&self, payload: &Payload) -> Result<Vec<Certificate>, VerifyError> {
        let parse = |(position, der): (usize, &Vec<u8>)| {
            let parsed = Certificate::parse(der).map_err(|source| match position {
                0 => VerifyError::Leaf(source),
                _ => VerifyError::Intermediate {
                    position: position - 1,
                    source,
                },
            })?;
            match parsed.public_key().algorithm() {
                KeyAlgorithm::Rsa(bits) if bits > self.options.max_rsa_bits => {
                    let whose = if position == 0 {
                        "leaf"
                    } else {
                        "intermediate"
                    };
                    Err(VerifyError::KeySize { whose })
                }
                _ => Ok(parsed),
            }
        };
        payload.chain().iter().enumerate().map(parse).collect()
    }

    /// Who this is, once the key is shown to be there.
    fn outcome(&self, leaf: &Certificate, above: &[Certificate]) -> Result<Attested, VerifyError> {
        let trimmed = match &self.options.trust {
            Trust::Roots(_) => String::new(),
            Trust::OwnDomain { prefix } => self.trimmed(leaf, prefix)?,
        };
        let uris = uri_pairs(leaf, &self.trust_domain);
        let selectors = selectors(leaf, above, &uris)?;
        let values = self.values(leaf, trimmed, uris);
        let agent_id = self
            .options
            .template
            .agent_id(&self.trust_domain, &values)?;
        Ok(Attested::named(
            NAME,
            &self.trust_domain,
            agent_id,
            selectors,
        )?)
    }

    /// What is left of the path of an X509-SVID of this very trust domain.
    fn trimmed(&self, leaf: &Certificate, prefix: &str) -> Result<String, VerifyError> {
        // X509-SVID 5.2: a leaf that is no X509-SVID is nobody's.
        let id = check_peer_leaf(leaf).map_err(VerifyError::NoSvid)?;
        let own = id.is_member_of(&self.trust_domain);
        let rest = id.path().strip_prefix(prefix).filter(|_| own);
        rest.map(str::to_owned).ok_or(VerifyError::OutsidePrefix)
    }

    fn values(
        &self,
        leaf: &Certificate,
        trimmed: String,
        uris: BTreeMap<String, String>,
    ) -> Values {
        let name = leaf.common_name().unwrap_or_default();
        let own = [
            ("PluginName", NAME.to_owned()),
            ("Fingerprint", leaf.fingerprint_sha1()),
            ("TrustDomain", self.trust_domain.name().to_owned()),
            ("Subject.CommonName", name),
            ("SerialNumberHex", leaf.serial_hex()),
            ("SVIDPathTrimmed", trimmed),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let uris = uris
            .into_iter()
            .map(|(key, value)| (format!("URISanSelectors.{key}"), value));
        let texts = own.into_iter().chain(uris);
        let texts = texts.map(|(name, value)| (name, Value::Text(value)));
        let names = Value::List(leaf.dns_names().to_vec());
        texts.chain([("DNSNames".to_owned(), names)]).collect()
    }
}

/// Whether the agent calls from an address that its certificate has.
fn check_address(leaf: &Certificate, from: Option<IpAddr>) -> Result<(), VerifyError> {
    let from = from.ok_or(VerifyError::NoAddress)?.to_canonical();
    let read = |bytes: &Vec<u8>| {
        let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
        let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
        v4.or(v6).ok().map(|address| address.to_canonical())
    };
    let mut certified = leaf.ip_names().iter().filter_map(read);
    match certified.any(|address| address == from) {
        true => Ok(()),
        false => Err(VerifyError::OtherAddress(from)),
    }
}

fn challenge(leaf: &Certificate, nonce: Nonce) -> Result<Challenge, VerifyError> {
    // RFC 5280 4.2.1.3: digitalSignature is for signatures on what is neither certificate nor CRL.
    if !leaf
        .key_usage()
        .is_some_and(|usage| usage.digital_signature())
    {
        return Err(VerifyError::NotForSignatures);
    }
    let asked = Some(Asked { nonce });
    let (rsa_signature, ecdsa_signature) = match leaf.public_key().algorithm() {
        KeyAlgorithm::Rsa(_) => (asked, None),
        KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => (None, asked),
        KeyAlgorithm::Ed25519 => return Err(VerifyError::KeyType),
    };
    Ok(Challenge {
        rsa_signature,
        ecdsa_signature,
    })
}

impl Challenged {
    /// What the agent is to be asked.
    #[must_use]
    pub fn challenge(&self) -> Vec<u8> {
        self.challenge.encode()
    }

    /// Tells who it is, if the response shows that the key is there.
    pub fn conclude(self, response: &[u8]) -> Result<Attested, VerifyError> {
        let response = Response::parse(response).map_err(VerifyError::Response)?;
        match self.challenge.rsa_signature {
            Some(_) => {
                let signed = response.rsa_signature;
                self.check_rsa(&signed.ok_or(VerifyError::OtherResponse("RSA"))?)?;
            }
            None => {
                let signed = response.ecdsa_signature;
                self.check_ecdsa(&signed.ok_or(VerifyError::OtherResponse("ECDSA"))?)?;
            }
        }
        Ok(self.outcome)
    }

    fn check_rsa(&self, signed: &RsaSignature) -> Result<(), VerifyError> {
        let message = self.nonce.joined(signed.nonce);
        let verify = |scheme| self.key.verify(scheme, &message, &signed.signature.0);
        // SPIRE's agent takes the longest salt that fits, ours the one of the standard.
        verify(SignatureScheme::RsaPssSha256LongSalt)
            .or_else(|_other_salt| verify(SignatureScheme::RsaPssSha256))
            .map_err(|source| VerifyError::Signature {
                kind: "RSA",
                source,
            })
    }

    fn check_ecdsa(&self, signed: &EcdsaSignature) -> Result<(), VerifyError> {
        let message = self.nonce.joined(signed.nonce);
        let der = ecdsa_der(&signed.r.0, &signed.s.0);
        self.key
            .verify(SignatureScheme::EcdsaSha256Der, &message, &der)
            .map_err(|source| VerifyError::Signature {
                kind: "ECDSA",
                source,
            })
    }
}

#[cfg(test)]
mod tests;
