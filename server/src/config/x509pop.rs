//! Whose certificates prove nodes: `NodeAttestor "x509pop"`.

use std::path::{Path, PathBuf};

use attestors::node::x509pop::{
    DEFAULT_MAX_INTERMEDIATES, DEFAULT_MAX_RSA_BITS, DEFAULT_SVID_PREFIX, Options, Trust, template,
};
use identity::x509::{Certificate, MAX_CHAIN, MAX_LIST_BYTES, parse_pem_certificates};
use runtime::config::{Plugin, Problems, given};
use runtime::files;
use runtime::report;
use serde::Deserialize;

/// The settings of the plugin, with SPIRE's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    mode: Option<String>,
    spiffe_prefix: Option<String>,
    ca_bundle_path: Option<PathBuf>,
    ca_bundle_paths: Vec<PathBuf>,
    agent_path_template: Option<String>,
    max_intermediates: Option<i64>,
    max_rsa_key_size: Option<i64>,
    verify_client_ip: bool,
}

pub(super) fn read(plugin: &Plugin, problems: &mut Problems) -> Option<Options> {
    let said: Settings = plugin.settings(problems);
    let trust = trust(plugin, &said, problems)?;
    let text = said.agent_path_template.as_deref();
    let template = template(text.filter(|text| !text.is_empty()), &trust);
    let template = problems.take(&plugin.key("agent_path_template"), template)?;
    let most = i64::try_from(MAX_CHAIN - 1).unwrap_or(i64::MAX);
    let max_intermediates = within(
        plugin,
        "max_intermediates",
        said.max_intermediates,
        most,
        problems,
    );
    let most = i64::from(DEFAULT_MAX_RSA_BITS);
    let max_rsa_bits = within(
        plugin,
        "max_rsa_key_size",
        said.max_rsa_key_size,
        most,
        problems,
    );
    Some(Options {
        trust,
        template,
        max_intermediates: max_intermediates
            .and_then(|most| usize::try_from(most).ok())
            .unwrap_or(DEFAULT_MAX_INTERMEDIATES),
        max_rsa_bits: max_rsa_bits
            .and_then(|most| u16::try_from(most).ok())
            .unwrap_or(DEFAULT_MAX_RSA_BITS),
        verify_client_ip: said.verify_client_ip,
    })
}

/// A limit that is given, from 1 to what this server can hold to.
fn within(
    plugin: &Plugin,
    key: &str,
    said: Option<i64>,
    most: i64,
    problems: &mut Problems,
) -> Option<i64> {
    let fits = said.is_none_or(|said| (1..=most).contains(&said));
    problems.add_if(!fits, &plugin.key(key), format!("must be from 1 to {most}"));
    said
}

fn trust(plugin: &Plugin, said: &Settings, problems: &mut Problems) -> Option<Trust> {
    let paths = paths(plugin, said, problems);
    match said.mode.as_deref() {
        None | Some("" | "external_pki") => {
            let what = "one of ca_bundle_path or ca_bundle_paths must be configured";
            problems.add_if(paths.is_empty(), &plugin.key("ca_bundle_path"), what);
            let read = paths.iter().map(|path| roots(plugin, path, problems));
            let roots: Option<Vec<_>> = read.collect();
            Some(Trust::Roots(roots?.concat()))
        }
        Some("spiffe") => {
            let what = "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode";
            problems.add_if(!paths.is_empty(), &plugin.key("ca_bundle_path"), what);
            let mut prefix = said.spiffe_prefix.clone();
            if let Some(prefix) = prefix.as_mut().filter(|prefix| !prefix.ends_with('/')) {
                prefix.push('/');
            }
            let prefix = prefix.unwrap_or_else(|| DEFAULT_SVID_PREFIX.to_owned());
            let what = "must begin with `/`";
            problems.add_if(!prefix.starts_with('/'), &plugin.key("spiffe_prefix"), what);
            Some(Trust::OwnDomain { prefix })
        }
        Some(_) => {
            let what = "mode can only be either spiffe or external_pki";
            problems.add(&plugin.key("mode"), what);
            None
        }
    }
}

fn paths(plugin: &Plugin, said: &Settings, problems: &mut Problems) -> Vec<PathBuf> {
    let one = given(said.ca_bundle_path.clone());
    let what = "only one of ca_bundle_path or ca_bundle_paths can be configured, not both";
    let both = one.is_some() && !said.ca_bundle_paths.is_empty();
    problems.add_if(both, &plugin.key("ca_bundle_paths"), what);
    one.map_or_else(|| said.ca_bundle_paths.clone(), |one| vec![one])
}

/// The roots in a file. They are read once, as SPIRE's server does.
fn roots(plugin: &Plugin, path: &Path, problems: &mut Problems) -> Option<Vec<Certificate>> {
    let key = plugin.key("ca_bundle_path");
    let limit = u64::try_from(MAX_LIST_BYTES).unwrap_or(u64::MAX);
    let content = files::read_limited(path, limit).map_err(|error| report::chain(&error));
    let Some(content) = problems.take(&key, content)? else {
        problems.add(&key, format!("there is no file `{}`", path.display()));
        return None;
    };
    let text = String::from_utf8_lossy(&content);
    let roots = parse_pem_certificates(&text)
        .map_err(|error| format!("`{}`: {}", path.display(), report::chain(&error)));
    problems.take(&key, roots)
}
