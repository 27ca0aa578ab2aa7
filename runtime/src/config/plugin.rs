//! The section `plugins`: what is declared in it, and what can be said of a plugin before anybody
//! knows what it does.
//!
//! A reader matches on the kind and the name of each, decodes the settings of those that it has
//! built, and refuses the rest:
//!
//! ```text
//! match plugin.id() {
//!     ("KeyManager", "memory") => Nothing {} = plugin.settings(problems),
//!     _ => plugin.refuse(UNBUILT, problems),
//! }
//! ```

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Body, Problems};
use crate::report;

/// Kinds of plugins, each with the names that are known and not built.
pub type Unbuilt<'a> = &'a [(&'a str, &'a [&'a str])];

/// The plugins that are declared and not disabled, in the order of the file.
#[derive(Debug)]
pub struct Plugins(Vec<Plugin>);

/// A plugin that is declared.
#[derive(Debug)]
pub struct Plugin {
    kind: String,
    name: String,
    path: String,
    data: Option<Body>,
}

/// The settings of a plugin that has none: any key in it is unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Declaration {
    plugin_cmd: Option<String>,
    plugin_args: Option<Body>,
    plugin_checksum: Option<Body>,
    plugin_data: Option<Body>,
    plugin_data_file: Option<PathBuf>,
    enabled: Option<bool>,
}

impl Plugins {
    /// Reads the section. It must be there; external plugins are refused.
    pub fn read(section: Option<&Body>, problems: &mut Problems) -> Option<Self> {
        let Some(section) = section else {
            problems.add("", "plugins section must be configured");
            return None;
        };
        let mut plugins = Vec::new();
        for (kind, named) in section.entries() {
            for (name, declared) in named.entries() {
                plugins.extend(Plugin::read(kind, name, &declared, problems));
            }
        }
        Some(Self(plugins))
    }

    /// Refuses none, or more than one, of a kind; `names` are those that are built.
    pub fn exactly_one(&self, kind: &str, names: &str, problems: &mut Problems) {
        let found = self.count(kind);
        let what = format!("exactly one is needed, {names}; found {found}");
        problems.add_if(found != 1, &format!("plugins.{kind}"), what);
    }

    /// Refuses none of a kind; `names` are those that are built.
    pub fn at_least_one(&self, kind: &str, names: &str, problems: &mut Problems) {
        let what = format!("at least one is needed, {names}");
        problems.add_if(self.count(kind) == 0, &format!("plugins.{kind}"), what);
    }

    /// Refuses more than one of a kind.
    pub fn at_most_one(&self, kind: &str, problems: &mut Problems) {
        let path = format!("plugins.{kind}");
        problems.add_if(self.count(kind) > 1, &path, "only one can be used");
    }

    fn count(&self, kind: &str) -> usize {
        self.0.iter().filter(|plugin| plugin.kind == kind).count()
    }
}

impl<'a> IntoIterator for &'a Plugins {
    type Item = &'a Plugin;
    type IntoIter = std::slice::Iter<'a, Plugin>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Plugin {
    /// None is a plugin that is disabled, or that cannot be had.
    fn read(kind: &str, name: &str, declared: &Body, problems: &mut Problems) -> Option<Self> {
        let path = declared.path();
        let said: Declaration = problems.decode(declared);
        if said.enabled == Some(false) {
            return None;
        }
        let external = said.plugin_cmd.is_some_and(|command| !command.is_empty());
        if external || said.plugin_args.is_some() || said.plugin_checksum.is_some() {
            let what =
                "external plugins (`plugin_cmd`) are not built; use a plugin that is built in";
            problems.add(path, what);
            return None;
        }
        let data = match (said.plugin_data, said.plugin_data_file) {
            (Some(_), Some(_)) => {
                let what = "only one of `plugin_data` and `plugin_data_file` can be given";
                problems.add(path, what);
                return None;
            }
            (data, None) => data,
            (None, Some(file)) => {
                let loaded = super::load(&file, None).map_err(|error| report::chain(&error));
                let document = problems.take(&format!("{path}.plugin_data_file"), loaded)?;
                Some(document.body().clone())
            }
        };
        Some(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            path: path.to_owned(),
            data,
        })
    }

    /// Its kind and its name, to match on.
    pub fn id(&self) -> (&str, &str) {
        (&self.kind, &self.name)
    }

    /// The path of one of its settings, for a problem with it.
    pub fn key(&self, key: &str) -> String {
        format!("{}.plugin_data.{key}", self.path)
    }

    /// Its settings. Those that cannot be read are told, and are the default.
    pub fn settings<T: DeserializeOwned + Default>(&self, problems: &mut Problems) -> T {
        self.data
            .as_ref()
            .map_or_else(T::default, |data| problems.decode(data))
    }

    /// Refuses a plugin that nobody has built: by name if it is one of SPIRE's, and with SPIRE's
    /// words if there is no such plugin.
    pub fn refuse(&self, unbuilt: Unbuilt<'_>, problems: &mut Problems) {
        let (kind, name) = self.id();
        let known = unbuilt
            .iter()
            .any(|(unbuilt, names)| *unbuilt == kind && names.contains(&name));
        let what = if known {
            format!("the plugin {kind} `{name}` is not built; README says which are")
        } else {
            format!("no built-in plugin {name:?} for type {kind:?}")
        };
        problems.add(&self.path, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNBUILT: Unbuilt<'_> = &[("KeyManager", &["aws_kms"])];

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Disk {
        directory: String,
    }

    /// Reads the section as a reader does that has built the key managers `disk` and `memory`.
    fn read(section: &str) -> Result<Vec<String>, String> {
        let document = super::super::parse(section).unwrap();
        let mut problems = Problems::new(false);
        let mut folders = Vec::new();
        if let Some(declared) = Plugins::read(Some(document.body()), &mut problems) {
            for plugin in &declared {
                match plugin.id() {
                    ("KeyManager", "memory") => Nothing {} = plugin.settings(&mut problems),
                    ("KeyManager", "disk") => {
                        let Disk { directory } = plugin.settings(&mut problems);
                        let what = "must be set";
                        let path = plugin.key("directory");
                        problems.add_if(directory.is_empty(), &path, what);
                        folders.push(directory);
                    }
                    _ => plugin.refuse(UNBUILT, &mut problems),
                }
            }
            declared.exactly_one("KeyManager", "`disk` or `memory`", &mut problems);
        }
        let read = problems.finish(Some(folders)).map(|(folders, _)| folders);
        read.map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_plugin_gets_its_settings_from_the_file_or_from_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk.conf");
        std::fs::write(&file, "directory = \"b\"").unwrap();
        let here = read(r#"KeyManager "disk" { plugin_data { directory = "a" } }"#);
        assert_eq!(here, Ok(vec!["a".to_owned()]));
        let there = format!(r#"KeyManager "disk" {{ plugin_data_file = {file:?} }}"#);
        assert_eq!(read(&there), Ok(vec!["b".to_owned()]));
        let both = there.replace("{ plugin", "{ plugin_data {} plugin");
        assert!(read(&both).unwrap_err().contains("only one of"));
        std::fs::remove_file(&file).unwrap();
        assert!(read(&there).unwrap_err().contains("plugin_data_file`"));
    }

    #[test]
    fn a_disabled_plugin_is_passed_over_and_an_external_one_is_refused() {
        let disabled = r#"KeyManager "aws_kms" { enabled = false } KeyManager "memory" {}"#;
        assert_eq!(read(disabled), Ok(Vec::new()));
        let external = read(r#"KeyManager "disk" { plugin_cmd = "/x" }"#).unwrap_err();
        assert!(external.contains("external plugins"), "{external}");
    }

    #[test]
    fn what_is_missing_unknown_or_not_built_is_told_by_its_name() {
        for (section, part) in [
            ("", "exactly one is needed, `disk` or `memory`; found 0"),
            (
                "KeyManager \"memory\" {}\nKeyManager \"disk\" {}",
                "found 2",
            ),
            (
                "KeyManager \"disk\" {}",
                "`KeyManager.disk.plugin_data.directory`: must be set",
            ),
            (
                "KeyManager \"memory\" { plugin_data { x = 1 } }",
                "unknown key `KeyManager.memory.plugin_data.x`",
            ),
            (
                "KeyManager \"aws_kms\" {}",
                "`KeyManager.aws_kms`: the plugin KeyManager `aws_kms` is not built",
            ),
            (
                "KeyManager \"dusk\" {}",
                "no built-in plugin \"dusk\" for type \"KeyManager\"",
            ),
        ] {
            let refused = read(section).unwrap_err();
            assert!(refused.contains(part), "{section}: {refused}");
        }
    }
}
