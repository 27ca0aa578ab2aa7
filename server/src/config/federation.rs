//! The block `federation`: the bundle endpoint, and the trust domains to federate with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use runtime::config::{Body, HostPort, Problems, given};
use serde::Deserialize;

use super::{BundleEndpointConfig, FederationConfig, ServingConfig};
use crate::federation::{Endpoint, EndpointUrl, Profile};
use crate::web::CertificateFiles;

/// SPIRE's address, and its default for `refresh_hint`.
const DEFAULT_ADDRESS: &str = "0.0.0.0";
const DEFAULT_REFRESH_HINT: Duration = Duration::from_secs(5 * 60);
/// SPIRE's default for `file_sync_interval`.
const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// SPIRE warns of hints beyond these.
const LEAST_HINT: Duration = Duration::from_secs(60);
const MOST_HINT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Federation {
    bundle_endpoint: Option<BundleEndpoint>,
    federates_with: BTreeMap<String, FederatesWith>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BundleEndpoint {
    address: Option<String>,
    port: Option<i64>,
    refresh_hint: Option<String>,
    profile: BTreeMap<String, ServingProfile>,
    // Known, and not built.
    acme: Option<Body>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServingProfile {
    serving_cert_file: Option<ServingCertFile>,
    // Known, and not built.
    acme: Option<Body>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServingCertFile {
    cert_file_path: Option<PathBuf>,
    key_file_path: Option<PathBuf>,
    file_sync_interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FederatesWith {
    bundle_endpoint_url: Option<String>,
    bundle_endpoint_profile: BTreeMap<String, EndpointProfile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointProfile {
    endpoint_spiffe_id: Option<String>,
}

/// Reads the block.
pub(super) fn read(
    federation: Option<&Federation>,
    own: Option<&TrustDomain>,
    problems: &mut Problems,
) -> FederationConfig {
    let mut config = FederationConfig::default();
    let Some(federation) = federation else {
        return config;
    };
    if let Some(endpoint) = &federation.bundle_endpoint {
        config.bundle_endpoint = bundle_endpoint(endpoint, problems);
    }
    for (name, with) in &federation.federates_with {
        let path = format!("server.federation.federates_with.{name}");
        let trust_domain = problems.take(&path, TrustDomain::parse(name));
        // SPIFFE-ID 2.1.1: nobody else says which keys are ours.
        problems.add_if(
            trust_domain.is_some() && trust_domain.as_ref() == own,
            &path,
            "is the server's own trust domain",
        );
        let endpoint = endpoint(with, &path, problems);
        if let (Some(trust_domain), Some(endpoint)) = (trust_domain, endpoint) {
            config.federates_with.insert(trust_domain, endpoint);
        }
    }
    config
}

fn bundle_endpoint(
    endpoint: &BundleEndpoint,
    problems: &mut Problems,
) -> Option<BundleEndpointConfig> {
    let path = |key: &str| format!("server.federation.bundle_endpoint.{key}");
    refuse_acme(endpoint.acme.as_ref(), &path("acme"), problems);
    let host = given(endpoint.address.as_deref()).unwrap_or(DEFAULT_ADDRESS);
    problems.warn_if(
        endpoint.port.is_none(),
        "server.federation.bundle_endpoint has no port; the system chooses one",
    );
    let port = endpoint.port.unwrap_or_default();
    let address = HostPort::read(&path("port"), Some(host), port, problems);
    let hint = given(endpoint.refresh_hint.as_deref());
    let refresh_hint = problems
        .length(&path("refresh_hint"), hint)
        .unwrap_or(DEFAULT_REFRESH_HINT);
    problems.warn_if(
        refresh_hint < LEAST_HINT || refresh_hint >= MOST_HINT,
        "server.federation.bundle_endpoint.refresh_hint should be from 1m to less than 24h",
    );
    let serving = match one(&endpoint.profile, &path("profile"), problems) {
        None if endpoint.profile.is_empty() => {
            problems.warn(
                "server.federation.bundle_endpoint has no profile; https_spiffe is used, name it",
            );
            Some(ServingConfig::HttpsSpiffe)
        }
        None => None,
        Some((name, profile)) => match name {
            "https_spiffe" => Some(ServingConfig::HttpsSpiffe),
            "https_web" => serving(profile, &path("profile.https_web"), problems),
            other => {
                unknown_profile(&path("profile"), other, problems);
                None
            }
        },
    };
    Some(BundleEndpointConfig {
        address: address?,
        refresh_hint,
        serving: serving?,
    })
}

fn serving(profile: &ServingProfile, path: &str, problems: &mut Problems) -> Option<ServingConfig> {
    refuse_acme(profile.acme.as_ref(), &format!("{path}.acme"), problems);
    let Some(files) = &profile.serving_cert_file else {
        problems.add_if(
            profile.acme.is_none(),
            path,
            "`serving_cert_file` must be configured",
        );
        return None;
    };
    certificate_files(files, &format!("{path}.serving_cert_file"), problems)
        .map(ServingConfig::HttpsWeb)
}

pub(super) fn certificate_files(
    files: &ServingCertFile,
    path: &str,
    problems: &mut Problems,
) -> Option<CertificateFiles> {
    let mut needed = |key: &str, file: &Option<PathBuf>| {
        let file = given(file.clone());
        problems.add_if(file.is_none(), &format!("{path}.{key}"), "must be set");
        file
    };
    let certificate = needed("cert_file_path", &files.cert_file_path);
    let key = needed("key_file_path", &files.key_file_path);
    let interval = given(files.file_sync_interval.as_deref());
    let interval = problems.length(&format!("{path}.file_sync_interval"), interval);
    Some(CertificateFiles {
        certificate: certificate?,
        key: key?,
        sync_interval: interval
            .filter(|interval| !interval.is_zero())
            .unwrap_or(DEFAULT_SYNC_INTERVAL),
    })
}

fn endpoint(with: &FederatesWith, path: &str, problems: &mut Problems) -> Option<Endpoint> {
    let key = format!("{path}.bundle_endpoint_url");
    let url = match given(with.bundle_endpoint_url.as_deref()) {
        Some(url) => problems.take(&key, EndpointUrl::parse(url)),
        None => {
            problems.add(&key, "must be configured");
            None
        }
    };
    let key = format!("{path}.bundle_endpoint_profile");
    problems.add_if(
        with.bundle_endpoint_profile.is_empty(),
        &key,
        "must be configured: `https_spiffe` or `https_web`",
    );
    let profile = match one(&with.bundle_endpoint_profile, &key, problems)? {
        ("https_web", _) => Some(Profile::HttpsWeb),
        // SPIFFE Federation 5.2.2.2: the SPIFFE ID of the endpoint is known beforehand.
        ("https_spiffe", profile) => {
            let key = format!("{key}.https_spiffe.endpoint_spiffe_id");
            let id = profile.endpoint_spiffe_id.as_deref().unwrap_or_default();
            problems
                .take(&key, SpiffeId::parse(id))
                .map(Profile::HttpsSpiffe)
        }
        (other, _) => {
            unknown_profile(&key, other, problems);
            None
        }
    };
    Some(Endpoint {
        url: url?,
        profile: profile?,
    })
}

/// The one profile of a block of them.
fn one<'a, T>(
    profiles: &'a BTreeMap<String, T>,
    path: &str,
    problems: &mut Problems,
) -> Option<(&'a str, &'a T)> {
    problems.add_if(
        profiles.len() > 1,
        path,
        "exactly one bundle endpoint profile is expected",
    );
    let profile = profiles.iter().next().filter(|_| profiles.len() == 1);
    profile.map(|(name, profile)| (name.as_str(), profile))
}

fn unknown_profile(path: &str, name: &str, problems: &mut Problems) {
    let what = format!("there is no profile `{name}`; use `https_spiffe` or `https_web`");
    problems.add(path, what);
}

fn refuse_acme(acme: Option<&Body>, path: &str, problems: &mut Problems) {
    problems.add_if(
        acme.is_some(),
        path,
        "not built: ACME; use `serving_cert_file`",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    fn load(federation: &str) -> Result<(FederationConfig, Vec<String>), String> {
        let text = format!(
            r#"server {{ trust_domain = "example.org" data_dir = "/d" federation {{ {federation} }} }}
            plugins {{ DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" }} }}
            KeyManager "memory" {{ plugin_data {{}} }} NodeAttestor "join_token" {{ plugin_data {{}} }} }}
            signet {{ store = "memory" }}"#
        );
        let document = runtime::config::parse(&text).unwrap();
        match Config::load(&document, Overrides::default()) {
            Ok((config, warnings)) => Ok((
                config.federation,
                warnings.into_iter().map(|warning| warning.0).collect(),
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn reads_the_block_of_spires_documentation() {
        let (config, _) = load(
            r#"bundle_endpoint { address = "127.0.0.1" port = 8443 refresh_hint = "10m"
                profile "https_web" { serving_cert_file {
                    cert_file_path = "/c.pem" key_file_path = "/k.pem" file_sync_interval = "5m" } } }
            federates_with "a.org" { bundle_endpoint_url = "https://a.org:8443"
                bundle_endpoint_profile "https_web" {} }
            federates_with "b.org" { bundle_endpoint_url = "https://b.org:8443/b"
                bundle_endpoint_profile "https_spiffe" { endpoint_spiffe_id = "spiffe://b.org/e" } }"#,
        )
        .unwrap();
        let endpoint = config.bundle_endpoint.unwrap();
        assert_eq!(
            (endpoint.address.host.as_str(), endpoint.address.port),
            ("127.0.0.1", 8443)
        );
        assert_eq!(endpoint.refresh_hint, Duration::from_secs(600));
        assert_eq!(
            endpoint.serving,
            ServingConfig::HttpsWeb(CertificateFiles {
                certificate: "/c.pem".into(),
                key: "/k.pem".into(),
                sync_interval: Duration::from_secs(300),
            })
        );
        let with: Vec<_> = config
            .federates_with
            .iter()
            .map(|(name, endpoint)| (name.name(), endpoint.url.as_str(), endpoint.profile.clone()))
            .collect();
        let id = SpiffeId::parse("spiffe://b.org/e").unwrap();
        assert_eq!(
            with,
            [
                ("a.org", "https://a.org:8443", Profile::HttpsWeb),
                ("b.org", "https://b.org:8443/b", Profile::HttpsSpiffe(id)),
            ]
        );
    }

    #[test]
    fn an_endpoint_without_a_profile_is_https_spiffe_with_a_warning() {
        let (config, warnings) = load("bundle_endpoint { port = 8443 }").unwrap();
        let endpoint = config.bundle_endpoint.unwrap();
        assert_eq!(endpoint.serving, ServingConfig::HttpsSpiffe);
        assert_eq!(
            (endpoint.address.host.as_str(), endpoint.refresh_hint),
            ("0.0.0.0", DEFAULT_REFRESH_HINT)
        );
        assert!(
            warnings
                .iter()
                .any(|warning| warning.contains("no profile")),
            "{warnings:?}"
        );
    }

    #[test]
    fn what_is_wrong_or_not_built_is_refused_by_name() {
        for (text, what) in [
            (
                r#"bundle_endpoint { acme { domain_name = "d" } }"#,
                "not built: ACME",
            ),
            (
                r#"bundle_endpoint { profile "https_web" { acme { domain_name = "d" } } }"#,
                "not built: ACME",
            ),
            (
                r#"bundle_endpoint { profile "https_web" {} }"#,
                "`serving_cert_file` must be configured",
            ),
            (
                r#"bundle_endpoint { profile "https_web" { serving_cert_file { cert_file_path = "c" } } }"#,
                "key_file_path`: must be set",
            ),
            (
                r#"bundle_endpoint { profile "bogus" {} }"#,
                "there is no profile `bogus`",
            ),
            (
                r#"bundle_endpoint { profile "https_web" {} profile "https_spiffe" {} }"#,
                "exactly one",
            ),
            (
                r#"federates_with "a.org" { bundle_endpoint_profile "https_web" {} }"#,
                "bundle_endpoint_url`: must be configured",
            ),
            (
                r#"federates_with "a.org" { bundle_endpoint_url = "http://a.org" bundle_endpoint_profile "https_web" {} }"#,
                "must use the https scheme",
            ),
            (
                r#"federates_with "a.org" { bundle_endpoint_url = "https://a.org" }"#,
                "bundle_endpoint_profile`: must be configured",
            ),
            (
                r#"federates_with "a.org" { bundle_endpoint_url = "https://a.org" bundle_endpoint_profile "https_spiffe" {} }"#,
                "endpoint_spiffe_id`",
            ),
            (
                r#"federates_with "A" { bundle_endpoint_url = "https://a.org" bundle_endpoint_profile "https_web" {} }"#,
                "federates_with.A`",
            ),
            (
                r#"federates_with "example.org" { bundle_endpoint_url = "https://a.org" bundle_endpoint_profile "https_web" {} }"#,
                "is the server's own trust domain",
            ),
            (r"bogus = 1", "unknown key"),
        ] {
            let refused = load(text).unwrap_err();
            assert!(refused.contains(what), "{text}: {refused}");
        }
    }
}
