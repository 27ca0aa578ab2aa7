//! A kubeconfig file, read into kube's own type.
//!
//! kube's own way to read one brings a parser of YAML that draws its errors, and serde's code once more for it:
//! seven hundred kilobytes of the program, for one file that has strings and a few flags. Here YAML becomes JSON
//! first, which the program can read anyway.

use std::io::{self, Read as _};
use std::path::Path;

use kube::config::Kubeconfig;
use serde_json::Value;
use yaml_rust2::parser::{Event, MarkedEventReceiver, Parser};
use yaml_rust2::scanner::{Marker, ScanError};
use yaml_rust2::{Yaml, YamlLoader};

/// Kubeconfig files of a hundred clusters are smaller.
const MAX_BYTES: u64 = 1024 * 1024;

/// What is wrong with a kubeconfig file.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read, or is no text.
    #[error("could not read it")]
    Read(#[source] io::Error),
    /// The file is too large for a kubeconfig.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The file is no YAML.
    #[error("it is no YAML")]
    Yaml(#[source] ScanError),
    /// Aliases let a small file stand for one of any size.
    #[error("it uses YAML aliases (`*NAME`), which are not read here; write what they stand for")]
    Aliases,
    /// There is nothing in the file, or more than one document.
    #[error("it has {0} YAML documents; a kubeconfig is one")]
    Documents(usize),
    /// What is in the file is no kubeconfig.
    #[error("it is no kubeconfig")]
    Shape(#[source] serde_json::Error),
    /// The kubeconfig says nothing that can be used.
    #[error("it does not say how to reach a cluster")]
    Use(#[source] Box<kube::config::KubeconfigError>),
}

/// Reads a kubeconfig. What it names is relative to its own folder.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let file = std::fs::File::open(path).map_err(KubeconfigError::Read)?;
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    if read.map_err(KubeconfigError::Read)? as u64 > MAX_BYTES {
        return Err(KubeconfigError::TooLarge);
    }
    let mut config = parse(&text)?;
    if let Some(folder) = path.parent() {
        resolve(&mut config, folder);
    }
    Ok(config)
}

/// Reads the text of a kubeconfig.
pub fn parse(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    let mut aliases = Aliases(false);
    let mut parser = Parser::new_from_str(text);
    (parser.load(&mut aliases, true)).map_err(KubeconfigError::Yaml)?;
    if aliases.0 {
        return Err(KubeconfigError::Aliases);
    }
    let documents = YamlLoader::load_from_str(text).map_err(KubeconfigError::Yaml)?;
    let count = documents.len();
    let mut documents = documents.into_iter();
    match (documents.next(), documents.next()) {
        (Some(document), None) => {
            serde_json::from_value(value(document)).map_err(KubeconfigError::Shape)
        }
        _ => Err(KubeconfigError::Documents(count)),
    }
}

/// Whether a document uses an alias.
struct Aliases(bool);

impl MarkedEventReceiver for Aliases {
    fn on_event(&mut self, event: Event, _: Marker) {
        self.0 |= matches!(event, Event::Alias(_));
    }
}

fn value(yaml: Yaml) -> Value {
    match yaml {
        Yaml::String(text) | Yaml::Real(text) => Value::String(text),
        Yaml::Integer(number) => number.into(),
        Yaml::Boolean(flag) => flag.into(),
        Yaml::Array(items) => items.into_iter().map(value).collect(),
        Yaml::Hash(pairs) => Value::Object(pairs.into_iter().filter_map(pair).collect()),
        Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Null,
    }
}

/// A key that is no text is none of a kubeconfig's.
fn pair((key, yaml): (Yaml, Yaml)) -> Option<(String, Value)> {
    Some((key.into_string()?, value(yaml)))
}

fn resolve(config: &mut Kubeconfig, folder: &Path) {
    let absolute = |path: &mut Option<String>| {
        let joined = path.as_ref().map(|path| folder.join(path));
        if let Some(joined) = joined.as_deref().and_then(Path::to_str) {
            *path = Some(joined.to_owned());
        }
    };
    let clusters = config.clusters.iter_mut();
    for cluster in clusters.filter_map(|named| named.cluster.as_mut()) {
        absolute(&mut cluster.certificate_authority);
    }
    let users = config.auth_infos.iter_mut();
    for user in users.filter_map(|named| named.auth_info.as_mut()) {
        absolute(&mut user.client_certificate);
        absolute(&mut user.client_key);
        absolute(&mut user.token_file);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
apiVersion: v1
kind: Config
current-context: c
contexts:
- name: c
  context: {cluster: c, user: \"u\"}
clusters:
- name: c
  cluster:
    server: https://127.0.0.1:6443  # of this machine
    certificate-authority: pki/ca.crt
users:
- name: u
  user:
    client-certificate: /etc/client.crt
    client-key: client.key
    tokenFile: token
";

    #[test]
    fn what_a_file_names_is_relative_to_its_own_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        let config = read(&path).unwrap();
        let inside = |name: &str| Some(folder.path().join(name).display().to_string());
        let cluster = config.clusters.first().unwrap().cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
        assert_eq!(cluster.certificate_authority, inside("pki/ca.crt"));
        let user = config
            .auth_infos
            .first()
            .unwrap()
            .auth_info
            .as_ref()
            .unwrap();
        assert_eq!(user.client_certificate.as_deref(), Some("/etc/client.crt"));
        assert_eq!(user.client_key, inside("client.key"));
        assert_eq!(user.token_file, inside("token"));
    }

    #[test]
    fn agrees_with_kubes_own_reader() {
        let ours = serde_json::to_value(parse(FILE).unwrap()).unwrap();
        let theirs = serde_json::to_value(Kubeconfig::from_yaml(FILE).unwrap()).unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let said = |text: &str| parse(text).unwrap_err().to_string();
        assert!(said("a: [").contains("no YAML"));
        assert!(said("").contains("0 YAML documents"));
        assert!(said("a: b\n---\nc: d").contains("2 YAML documents"));
        assert!(said("users: 7").contains("no kubeconfig"));
        // Nine lines like this would be a document of a billion words.
        assert!(said("a: &a [x, x]\nb: [*a, *a]").contains("aliases"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, " ".repeat(1 << 21)).unwrap();
        assert!(matches!(read(&path), Err(KubeconfigError::TooLarge)));
        let missing = read(&folder.path().join("missing"));
        assert!(matches!(missing, Err(KubeconfigError::Read(_))));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-:#&*!|>{}\\[\\],\\n a-c'\"%]{0,80}") {
            let _ = parse(&text);
        }
    }
}
