//! The block `signet { oidc_discovery { … } }`: OpenID Connect discovery by the server itself.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use runtime::config::{HostPort, Problems, given};
use serde::Deserialize;

use super::OidcConfig;
use super::federation::{ServingCertFile, certificate_files};

const DEFAULT_ADDRESS: &str = "0.0.0.0";
/// Issuers have no port in their URL, as a rule.
const DEFAULT_PORT: i64 = 443;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OidcDiscovery {
    address: Option<String>,
    port: Option<i64>,
    domains: Vec<String>,
    serving_cert_file: Option<ServingCertFile>,
}

/// Reads the block. `jwt_issuer` is the `iss` of our tokens.
pub(super) fn read(
    said: &OidcDiscovery,
    jwt_issuer: Option<&str>,
    problems: &mut Problems,
) -> Option<OidcConfig> {
    let path = |key: &str| format!("signet.oidc_discovery.{key}");
    problems.add_if(
        said.domains.is_empty(),
        &path("domains"),
        "at least one domain must be given",
    );
    let mut domains = BTreeSet::new();
    for domain in &said.domains {
        let is_name = !domain.is_empty()
            && domain
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-');
        let what = format!("{domain:?} is not a domain: letters, digits, dots and dashes");
        problems.add_if(!is_name, &path("domains"), what);
        domains.insert(domain.to_ascii_lowercase());
    }
    // OpenID Connect Discovery 4.3: the issuer that is shown is the `iss` of the tokens.
    let is_ours = |issuer: &str| {
        let authority = issuer.strip_prefix("https://").unwrap_or_default();
        match authority.split_once(':') {
            Some((host, port)) => domains.contains(host) && port.parse::<NonZeroU16>().is_ok(),
            None => domains.contains(authority),
        }
    };
    problems.warn_if(
        !jwt_issuer.is_some_and(is_ours),
        "signet.oidc_discovery: server.jwt_issuer is not https://DOMAIN[:PORT] with one of the \
         domains and nothing behind it, so others refuse JWT-SVIDs as ID tokens",
    );
    let host = given(said.address.as_deref()).unwrap_or(DEFAULT_ADDRESS);
    let port = said.port.unwrap_or(DEFAULT_PORT);
    let address = HostPort::read(&path("port"), Some(host), port, problems);
    let path = path("serving_cert_file");
    problems.add_if(
        said.serving_cert_file.is_none(),
        &path,
        "must be configured",
    );
    let files = said.serving_cert_file.as_ref()?;
    let certificate = certificate_files(files, &path, problems);
    Some(OidcConfig {
        address: address?,
        domains,
        certificate: certificate?,
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, OidcConfig, Overrides};

    fn load(oidc: &str) -> Result<(Option<OidcConfig>, String), String> {
        load_with("https://oidc.example.org", oidc)
    }

    fn load_with(issuer: &str, oidc: &str) -> Result<(Option<OidcConfig>, String), String> {
        let text = format!(
            r#"server {{ trust_domain = "example.org" data_dir = "/d" jwt_issuer = "{issuer}" }}
            plugins {{ DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" }} }}
            KeyManager "memory" {{ plugin_data {{}} }} NodeAttestor "join_token" {{ plugin_data {{}} }} }}
            signet {{ oidc_discovery {{ {oidc} }} }}"#
        );
        let document = runtime::config::parse(&text).unwrap();
        let loaded = Config::load(&document, Overrides::default());
        let (config, warnings) = loaded.map_err(|error| error.to_string())?;
        Ok((config.oidc, format!("{warnings:?}")))
    }

    const FILES: &str =
        r#"serving_cert_file { cert_file_path = "/c.pem" key_file_path = "/k.pem" }"#;

    #[test]
    fn reads_the_block_and_warns_of_an_issuer_that_is_not_its_own() {
        let (config, warnings) =
            load(&format!(r#"domains = ["OIDC.example.org"] {FILES}"#)).unwrap();
        let config = config.unwrap();
        assert_eq!(
            (config.address.host.as_str(), config.address.port),
            ("0.0.0.0", 443)
        );
        assert!(config.domains.contains("oidc.example.org"));
        assert!(!warnings.contains("jwt_issuer"), "{warnings}");
        let (_, warnings) = load(&format!(r#"domains = ["other.org"] {FILES}"#)).unwrap();
        assert!(warnings.contains("jwt_issuer"), "{warnings}");
    }

    #[test]
    fn warns_of_an_issuer_that_is_more_than_a_domain_and_a_port() {
        for (issuer, warned) in [
            ("https://oidc.example.org", false),
            ("https://oidc.example.org:8443", false),
            ("https://oidc.example.org/", true),
            ("https://oidc.example.org/path", true),
            ("https://oidc.example.org:8443/", true),
            ("https://oidc.example.org:", true),
            ("https://oidc.example.org:0", true),
            ("https://oidc.example.org?x", true),
            ("https://user@oidc.example.org", true),
            ("http://oidc.example.org", true),
        ] {
            let block = format!(r#"domains = ["oidc.example.org"] {FILES}"#);
            let (_, warnings) = load_with(issuer, &block).unwrap();
            assert_eq!(warnings.contains("jwt_issuer"), warned, "{issuer}");
        }
    }

    #[test]
    fn names_what_is_missing_or_wrong() {
        for (text, what) in [
            (FILES.to_owned(), "domains`: at least one domain"),
            (
                r#"domains = ["a.org"]"#.to_owned(),
                "serving_cert_file`: must be configured",
            ),
            (
                format!(r#"domains = ["a.org/x"] {FILES}"#),
                "is not a domain",
            ),
            (
                format!(r#"domains = ["a.org"] port = 70000 {FILES}"#),
                "is not a port",
            ),
        ] {
            let refused = load(&text).unwrap_err();
            assert!(refused.contains(what), "{text}: {refused}");
        }
    }
}
