//! The relationships that a command line or a file describes.

use identity::spiffe_id::SpiffeId;
use proto::spire::types::federation_relationship::BundleEndpointProfile;
use proto::spire::types::{Bundle, FederationRelationship, HttpsWebProfile, HttpsspiffeProfile};
use serde::Deserialize;
use serde_json::Value;

use crate::admin::bundles::format::Format;
use crate::admin::entry_file::{self, Object};
use crate::failure::{Failure, os_error};
use crate::flags::Values;

/// The flags that describe one relationship, with their defaults.
const FIELDS: [(&str, &str); 6] = [
    ("trustDomain", ""),
    ("bundleEndpointURL", ""),
    ("bundleEndpointProfile", ""),
    ("endpointSpiffeID", ""),
    ("trustDomainBundlePath", ""),
    ("trustDomainBundleFormat", "pem"),
];

/// The keys are SPIRE's, in any case, as Go reads them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    federationrelationships: Option<Vec<Object<Described>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Described {
    #[serde(rename = "trustdomain")]
    trust_domain: Option<String>,
    #[serde(rename = "bundleendpointurl")]
    url: Option<String>,
    #[serde(rename = "bundleendpointprofile")]
    profile: Option<String>,
    #[serde(rename = "endpointspiffeid")]
    endpoint_id: Option<String>,
    #[serde(rename = "trustdomainbundle")]
    bundle: Option<Value>,
    #[serde(rename = "trustdomainbundleformat")]
    format: Option<String>,
    #[serde(skip)]
    path: Option<String>,
}

/// Reads the flags, or the file that they name.
pub(super) fn relationships(values: &Values) -> Result<Vec<FederationRelationship>, Failure> {
    let Some(path) = values.given("data") else {
        let text = |flag| values.given(flag).map(str::to_owned);
        let described = Described {
            trust_domain: text("trustDomain"),
            url: text("bundleEndpointURL"),
            profile: text("bundleEndpointProfile"),
            endpoint_id: text("endpointSpiffeID"),
            bundle: None,
            format: text("trustDomainBundleFormat"),
            path: text("trustDomainBundlePath"),
        };
        return Ok(vec![described.relationship()?]);
    };
    if FIELDS
        .iter()
        .any(|(flag, default)| values.text(flag) != *default)
    {
        return Err(Failure::new(
            "cannot use other flags to specify relationship fields when 'data' flag is set",
        ));
    }
    in_file(&entry_file::read_from(path, "-")?)
}

fn in_file(bytes: &[u8]) -> Result<Vec<FederationRelationship>, Failure> {
    let file: File =
        entry_file::parse(bytes).map_err(|failure| failure.context("failed to parse JSON"))?;
    let described = file.federationrelationships.unwrap_or_default().into_iter();
    described
        .enumerate()
        .map(|(at, Object(described))| {
            let read = described.relationship();
            read.map_err(|failure| failure.context(format_args!("could not parse item {at}")))
        })
        .collect()
}

impl Described {
    fn relationship(self) -> Result<FederationRelationship, Failure> {
        let given = |text: Option<String>, missing: &str| {
            let text = text.filter(|text| !text.is_empty());
            text.ok_or_else(|| Failure::new(missing))
        };
        let trust_domain = given(self.trust_domain, "trust domain is required")?;
        let url = given(self.url, "bundle endpoint URL is required")?;
        // SPIRE reads the bundle as one of the endpoint's trust domain; its server then refuses it if
        // that is another than the relationship's.
        let mut bundle_of = trust_domain.clone();
        let profile = match self.profile.unwrap_or_default().as_str() {
            "https_web" => BundleEndpointProfile::HttpsWeb(HttpsWebProfile {}),
            "https_spiffe" => {
                let id = given(
                    self.endpoint_id,
                    "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set",
                )?;
                let parsed = SpiffeId::parse(&id).map_err(|error| {
                    Failure::chain(&error).context("cannot parse bundle endpoint SPIFFE ID")
                })?;
                parsed.trust_domain().name().clone_into(&mut bundle_of);
                BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
                    endpoint_spiffe_id: id,
                })
            }
            other => {
                return Err(Failure::new(format!(
                    "unknown bundle endpoint profile type: {other:?}"
                )));
            }
        };
        let format = self.format.unwrap_or_default();
        let trust_domain_bundle = match (self.path, self.bundle) {
            (Some(path), _) => Some(bundle_at(&path, &format, &bundle_of)?),
            (None, Some(bundle)) => {
                let read = bundle_in(&bundle, &format, &bundle_of);
                Some(read.map_err(|failure| failure.context("cannot parse bundle raw message"))?)
            }
            (None, None) => None,
        };
        Ok(FederationRelationship {
            trust_domain,
            bundle_endpoint_url: url,
            bundle_endpoint_profile: Some(profile),
            trust_domain_bundle,
        })
    }
}

fn bundle_at(path: &str, format: &str, trust_domain: &str) -> Result<Bundle, Failure> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::new(format!("open {path}: {}", os_error(&error)))
            .context("cannot read bundle file")
    })?;
    let read = Format::parse(format).and_then(|format| format.read(trust_domain, &bytes));
    read.map_err(|failure| failure.context("cannot parse bundle file"))
}

/// A bundle that stands in the file itself: PEM as a text, or the JSON of SPIFFE.
fn bundle_in(bundle: &Value, format: &str, trust_domain: &str) -> Result<Bundle, Failure> {
    match (format, bundle) {
        ("pem", Value::String(pem)) => Format::Pem.read(trust_domain, pem.as_bytes()),
        ("pem", _) => Err(Failure::new(
            "failed to unmarshal json: a bundle in PEM is a text",
        )),
        ("spiffe", bundle) => Format::Spiffe.read(trust_domain, bundle.to_string().as_bytes()),
        (other, _) => Err(Failure::new(format!(
            "bundle format {other:?} is unsupported"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIFFE: &str = include_str!("../bundles/recorded.json");
    const PEM: &str = include_str!("../bundles/recorded.pem");

    fn read(text: &str) -> Result<Vec<FederationRelationship>, String> {
        in_file(text.as_bytes()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn reads_spires_keys_in_any_case_and_bundles_of_both_formats() {
        let pem = serde_json::to_string(PEM).unwrap();
        let text = format!(
            r#"{{"FederationRelationships":[
            {{"trustDomain":"a.org","bundleEndpointURL":"https://a.org/","bundleEndpointProfile":"https_web","other":1}},
            {{"TRUSTDOMAIN":"b.org","bundleEndpointURL":"https://b.org/","bundleEndpointProfile":"https_spiffe",
              "endpointSPIFFEID":"spiffe://b.org/e","trustDomainBundle":{SPIFFE},"trustDomainBundleFormat":"spiffe"}},
            {{"trustDomain":"c.org","bundleEndpointURL":"https://c.org/","bundleEndpointProfile":"https_web",
              "trustDomainBundle":{pem},"trustDomainBundleFormat":"pem"}}]}}"#
        );
        let [a, b, c] = <[_; 3]>::try_from(read(&text).unwrap()).unwrap();
        assert_eq!(
            (a.trust_domain.as_str(), a.trust_domain_bundle),
            ("a.org", None)
        );
        let bundle = b.trust_domain_bundle.unwrap();
        assert_eq!(
            (bundle.trust_domain.as_str(), bundle.sequence_number),
            ("b.org", 1)
        );
        let pem = c.trust_domain_bundle.unwrap();
        assert_eq!(pem.x509_authorities, bundle.x509_authorities);
    }

    #[test]
    fn says_which_item_of_a_file_is_wrong_and_why() {
        let item = |fields: &str| {
            format!(
                r#"{{"federationRelationships":[{{"trustDomain":"a.org","bundleEndpointURL":"https://a.org/",{fields}}}]}}"#
            )
        };
        for (text, error) in [
            ("{}".to_owned(), None),
            ("[]".to_owned(), Some("failed to parse JSON: ")),
            (
                r#"{"federationRelationships":[{}]}"#.to_owned(),
                Some("could not parse item 0: trust domain is required"),
            ),
            (
                item(r#""bundleEndpointProfile":"bogus""#),
                Some("could not parse item 0: unknown bundle endpoint profile type: \"bogus\""),
            ),
            (
                item(r#""bundleEndpointProfile":"https_spiffe","endpointSPIFFEID":"bad""#),
                Some("could not parse item 0: cannot parse bundle endpoint SPIFFE ID: "),
            ),
            (
                item(
                    r#""bundleEndpointProfile":"https_web","trustDomainBundle":1,"trustDomainBundleFormat":"pem""#,
                ),
                Some(
                    "could not parse item 0: cannot parse bundle raw message: failed to unmarshal json: ",
                ),
            ),
            (
                item(r#""bundleEndpointProfile":"https_web","trustDomainBundle":{}"#),
                Some(
                    "could not parse item 0: cannot parse bundle raw message: bundle format \"\" is unsupported",
                ),
            ),
        ] {
            match (read(&text), error) {
                (Ok(read), None) => assert!(read.is_empty()),
                (Err(said), Some(error)) => assert!(said.starts_with(error), "{said}"),
                (read, error) => panic!("{text}: {read:?} for {error:?}"),
            }
        }
    }
}
