//! The server's half: which agent a host certificate stands for, and whether its key is there.

use aws_lc_rs::digest::{SHA256, digest};
use identity::key::PublicKey;
use identity::selector::Selectors;
use identity::trust_domain::TrustDomain;

use super::NAME;
use super::authorities::Authorities;
use super::certificate::HostCertificate;
use super::error::VerifyError;
use super::messages::{Challenge, Payload, Response};
use super::signature::{self, Sha1};
use crate::node::nonce::Nonce;
use crate::node::path_template::{Names, PathTemplate, TemplateError, Value, Values};
use crate::node::{Attested, Circumstances};

const NAMES: Names<'_> = Names {
    texts: &["PluginName", "Fingerprint", "Hostname", "KeyId", "Serial"],
    lists: &["ValidPrincipals"],
    maps: &[],
};

/// How agents are called, as an operator wrote it, or as SPIRE has it.
pub fn template(text: Option<&str>) -> Result<PathTemplate, TemplateError> {
    let default = "/{{ .PluginName }}/{{ .Fingerprint }}";
    PathTemplate::parse(text.unwrap_or(default), NAMES)
}

/// What an operator says of this attestor.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may certify hosts.
    pub authorities: Authorities,
    /// The domain that hosts must be of; it is left out of their names.
    pub canonical_domain: Option<String>,
    /// How agents are called.
    pub template: PathTemplate,
}

/// Verifies certificates and signatures.
#[derive(Debug)]
pub struct Verifier {
    trust_domain: TrustDomain,
    options: Options,
}

/// A host whose certificate is good, and that has to show that the key is its own. The response is
/// taken once: whoever wants to try another one gets another nonce.
#[derive(Debug)]
pub struct Challenged {
    key: PublicKey,
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

    /// Checks the certificate of a payload, and draws a challenge to whoever has its key.
    pub fn begin(&self, payload: &[u8], at: Circumstances<'_>) -> Result<Challenged, VerifyError> {
        let Payload(bytes) = Payload::parse(payload)?;
        let certificate = HostCertificate::verify(&bytes, &self.options.authorities, at.now)?;
        let hostname = self.hostname(&certificate)?;
        let values: Values = [
            ("PluginName", Value::Text(NAME.to_owned())),
            ("Fingerprint", Value::Text(certificate.fingerprint)),
            ("Hostname", Value::Text(hostname)),
            ("KeyId", Value::Text(certificate.key_id)),
            ("Serial", Value::Text(certificate.serial.to_string())),
            ("ValidPrincipals", Value::List(certificate.principals)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let agent_id = self
            .options
            .template
            .agent_id(&self.trust_domain, &values)?;
        let selectors = Selectors::default();
        let outcome = Attested::named(NAME, &self.trust_domain, agent_id, selectors)?;
        Ok(Challenged {
            key: certificate.key,
            nonce: Nonce::draw(),
            outcome,
        })
    }

    /// The first name of the host, without the operator's domain.
    fn hostname(&self, certificate: &HostCertificate) -> Result<String, VerifyError> {
        let name = certificate.principals.first().map_or("", String::as_str);
        let Some(domain) = &self.options.canonical_domain else {
            return Ok(name.to_owned());
        };
        let host = name.strip_suffix(domain.as_str());
        let host = host.and_then(|host| host.strip_suffix('.'));
        host.map(str::to_owned)
            .ok_or_else(|| VerifyError::OtherDomain(format!(".{domain}")))
    }
}

impl Challenged {
    /// What the agent is to be asked.
    #[must_use]
    pub fn challenge(&self) -> Vec<u8> {
        Challenge { nonce: self.nonce }.encode()
    }

    /// Tells who it is, if the response shows that the key is there.
    pub fn conclude(self, response: &[u8]) -> Result<Attested, VerifyError> {
        let Response { nonce, signature } =
            Response::parse(response).map_err(VerifyError::Response)?;
        let message = digest(&SHA256, &self.nonce.joined(nonce));
        signature::verify(
            &self.key,
            message.as_ref(),
            &signature.format,
            &signature.blob.0,
            Sha1::Counts,
        )
        .map_err(VerifyError::Signature)?;
        Ok(self.outcome)
    }
}

#[cfg(test)]
mod tests;
