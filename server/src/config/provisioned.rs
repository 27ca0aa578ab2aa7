//! Which hosts may attest by what an operator has set up on them: `NodeAttestor "sshpop"`.

use std::path::PathBuf;

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

fn authorities_in(plugin: &Plugin, path: &PathBuf, problems: &mut Problems) -> Option<Authorities> {
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
