//! The two texts of a bundle: PEM, which has its X.509 authorities alone, and SPIFFE's JSON.

use std::time::{Duration, UNIX_EPOCH};

use identity::bundle::{self, JwtAuthority, X509Authority};
use identity::key::PublicKey;
use identity::x509::{parse_concatenated_der, parse_pem_certificates, to_pem};
use proto::spire::types::{Bundle, JwtKey, X509Certificate};

use super::trust_domain;
use crate::failure::Failure;

/// A text form of a bundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::admin) enum Format {
    Pem,
    Spiffe,
}

impl Format {
    pub(in crate::admin) fn parse(word: &str) -> Result<Self, Failure> {
        match word.to_lowercase().as_str() {
            "" | "pem" => Ok(Self::Pem),
            "spiffe" => Ok(Self::Spiffe),
            other => Err(Failure::new(format!("invalid format: {other:?}"))),
        }
    }

    /// Writes a bundle of the server's.
    pub(super) fn text(self, bundle: &Bundle) -> Result<String, Failure> {
        match self {
            Self::Pem => {
                let mut text = String::new();
                for authority in &bundle.x509_authorities {
                    let certificates =
                        parse_concatenated_der(&authority.asn1).map_err(|error| {
                            Failure::chain(&error)
                                .context("unable to parse certificates ASN.1 DER data")
                        })?;
                    text.push_str(&to_pem(&certificates));
                }
                Ok(text)
            }
            Self::Spiffe => Ok(parsed(bundle)?.to_spiffe_json() + "\n"),
        }
    }

    /// Reads a bundle to be sent. With PEM the trust domain is the server's to judge.
    pub(in crate::admin) fn read(self, id: &str, bytes: &[u8]) -> Result<Bundle, Failure> {
        match self {
            Self::Pem => {
                let text = String::from_utf8_lossy(bytes);
                let certificates = parse_pem_certificates(&text).map_err(|error| {
                    Failure::chain(&error).context("unable to parse bundle data")
                })?;
                Ok(Bundle {
                    trust_domain: id.to_owned(),
                    x509_authorities: certificates.iter().map(sent).collect(),
                    ..Bundle::default()
                })
            }
            Self::Spiffe => {
                let bundle = bundle::Bundle::from_spiffe_json(trust_domain(id)?, bytes).map_err(
                    |error| Failure::chain(&error).context("unable to parse to spiffe bundle"),
                )?;
                let hint = bundle.refresh_hint.unwrap_or_default().as_secs();
                Ok(Bundle {
                    trust_domain: bundle.trust_domain.name().to_owned(),
                    x509_authorities: bundle.certificates().map(sent).collect(),
                    jwt_authorities: bundle.jwt_authorities.iter().map(sent_key).collect(),
                    refresh_hint: i64::try_from(hint).unwrap_or(i64::MAX),
                    sequence_number: bundle.sequence,
                    ..Bundle::default()
                })
            }
        }
    }
}

fn sent(certificate: &identity::x509::Certificate) -> X509Certificate {
    X509Certificate {
        asn1: certificate.der().to_vec().into(),
        tainted: false,
    }
}

fn sent_key(authority: &JwtAuthority) -> JwtKey {
    JwtKey {
        public_key: authority.public_key.spki_der().to_vec().into(),
        key_id: authority.key_id.clone(),
        ..JwtKey::default()
    }
}

fn parsed(bundle: &Bundle) -> Result<bundle::Bundle, Failure> {
    let mut own = bundle::Bundle::new(trust_domain(&bundle.trust_domain)?);
    for (at, authority) in bundle.x509_authorities.iter().enumerate() {
        let certificate = identity::x509::Certificate::parse(&authority.asn1).map_err(|error| {
            Failure::chain(&error).context(format_args!("unable to parse root CA {at}"))
        })?;
        own.add_x509_authority(X509Authority {
            certificate,
            tainted: authority.tainted,
        });
    }
    for authority in &bundle.jwt_authorities {
        let key_id = &authority.key_id;
        let public_key = PublicKey::from_spki_der(&authority.public_key).map_err(|error| {
            Failure::chain(&error).context(format_args!("unable to parse JWT key {key_id:?}"))
        })?;
        own.jwt_authorities.push(JwtAuthority {
            key_id: key_id.clone(),
            public_key,
            expires_at: u64::try_from(authority.expires_at)
                .ok()
                .filter(|seconds| *seconds > 0)
                .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
            tainted: authority.tainted,
        });
    }
    own.refresh_hint = u64::try_from(bundle.refresh_hint)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    own.sequence = bundle.sequence_number;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by `bundle show -format spiffe` of a real server.
    const SPIFFE: &str = include_str!("recorded.json");
    /// Printed by `bundle show` of the same server.
    const PEM: &str = include_str!("recorded.pem");

    #[test]
    fn both_texts_of_a_recorded_bundle_are_written_as_they_were() {
        let bundle = Format::Spiffe
            .read("spiffe://example.org", SPIFFE.as_bytes())
            .unwrap();
        assert_eq!(bundle.trust_domain, "example.org");
        assert_eq!(bundle.sequence_number, 1);
        assert_eq!(Format::Spiffe.text(&bundle).unwrap(), SPIFFE);
        assert_eq!(Format::Pem.text(&bundle).unwrap(), PEM);
        let again = Format::Pem.read("bad/id", PEM.as_bytes()).unwrap();
        assert_eq!(again.x509_authorities, bundle.x509_authorities);
        assert_eq!(again.trust_domain, "bad/id");
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        for (format, bytes, text) in [
            (
                Format::Pem,
                &b"{}"[..],
                "unable to parse bundle data: no PEM blocks",
            ),
            (
                Format::Spiffe,
                b"{}",
                "unable to parse to spiffe bundle: bundle has no keys",
            ),
        ] {
            assert_eq!(format.read("fed.org", bytes).unwrap_err().to_string(), text);
        }
        assert!(Format::Spiffe.read("bad/id", SPIFFE.as_bytes()).is_err());
        assert_eq!(
            Format::parse("bogus").unwrap_err().to_string(),
            "invalid format: \"bogus\""
        );
        assert_eq!(Format::parse("SPIFFE"), Ok(Format::Spiffe));
    }
}
