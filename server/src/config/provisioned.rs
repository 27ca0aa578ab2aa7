//! Which hosts may attest by what an operator has set up on them: `NodeAttestor "sshpop"` and
//! `NodeAttestor "http_challenge"`.

use std::path::{Path, PathBuf};

use attestors::node::http_challenge::{self, Network, Pattern};
use attestors::node::sshpop::{self, Authorities, template};
use runtime::config::{Plugin, Problems, given};
use runtime::{files, report};
use serde::Deserialize;

/// The largest file of authorities.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The settings of `sshpop`, with SPIRE's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sshpop {
    cert_authorities: Vec<String>,
    cert_authorities_path: Option<PathBuf>,
    canonical_domain: Option<String>,
    agent_path_template: Option<String>,
}

pub(super) fn sshpop(plugin: &Plugin, problems: &mut Problems) -> Option<sshpop::Options> {
    let said: Sshpop = plugin.settings(problems);
    let key = plugin.key("cert_authorities");
    let text = said.cert_authorities.join("\n");
    let here = Authorities::parse(&text).map_err(|error| report::chain(&error));
    let mut authorities = problems.take(&key, here)?;
    if let Some(path) = given(said.cert_authorities_path) {
        authorities = authorities.and(authorities_in(plugin, &path, problems)?);
    }
    let what =
        "missing required config value for \"cert_authorities\" or \"cert_authorities_path\"";
    problems.add_if(authorities.is_empty(), &key, what);
    let text = said.agent_path_template.filter(|text| !text.is_empty());
    let template = template(text.as_deref());
    Some(sshpop::Options {
        authorities,
        canonical_domain: said.canonical_domain.filter(|domain| !domain.is_empty()),
        template: problems.take(&plugin.key("agent_path_template"), template)?,
    })
}

fn authorities_in(plugin: &Plugin, path: &Path, problems: &mut Problems) -> Option<Authorities> {
    let key = plugin.key("cert_authorities_path");
    let content = files::read_limited(path, MAX_FILE_BYTES);
    let content = content.map_err(|error| report::chain(&error));
    let Some(content) = problems.take(&key, content)? else {
        problems.add(&key, format!("there is no file `{}`", path.display()));
        return None;
    };
    let read = Authorities::parse(&String::from_utf8_lossy(&content))
        .map_err(|error| format!("`{}`: {}", path.display(), report::chain(&error)));
    problems.take(&key, read)
}

/// The settings of `http_challenge`, with SPIRE's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HttpChallenge {
    allowed_dns_patterns: Vec<String>,
    required_port: Option<i64>,
    allow_non_root_ports: Option<bool>,
    tofu: Option<bool>,
}

/// `networks` are those of our own block, as they are written.
pub(super) fn http_challenge(
    plugin: &Plugin,
    networks: &[String],
    problems: &mut Problems,
) -> Option<http_challenge::Options> {
    let said: HttpChallenge = plugin.settings(problems);
    let patterns = said.allowed_dns_patterns.iter().map(|text| {
        let key = plugin.key("allowed_dns_patterns");
        let what = |error| format!("cannot compile allowed_dns_pattern: {text:?}: {error}");
        problems.take(&key, Pattern::parse(text).map_err(what))
    });
    let patterns: Option<Vec<_>> = patterns.collect();
    let port = said.required_port.map(u16::try_from).transpose();
    let port = problems.take(&plugin.key("required_port"), port);
    let networks: Option<Vec<Network>> = networks
        .iter()
        .map(|text| {
            let network = text.parse().map_err(|error| format!("`{text}` is {error}"));
            problems.take("signet.http_challenge_networks", network)
        })
        .collect();
    let required_port = port?;
    let (high, tofu) = (
        said.allow_non_root_ports != Some(false),
        said.tofu != Some(false),
    );
    // Any process can open a high port, so that one that comes later cannot be told from the agent.
    let any_process = required_port.map_or(high, |port| port >= 1024);
    let what = "you can not turn off trust on first use (TOFU) when non-root ports are allowed";
    problems.add_if(!tofu && any_process, &plugin.key("tofu"), what);
    Some(http_challenge::Options {
        allowed_dns_patterns: patterns?,
        required_port,
        allow_non_root_ports: high,
        tofu,
        networks: networks?,
    })
}
