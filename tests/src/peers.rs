//! The outside judges, where `tests/setup` put them.

use std::path::PathBuf;
use std::process::Command;

/// The folder of a peer, or `None` if it could not be installed: then the test ends as skipped, by name.
///
/// With `CI=true` a missing peer is a failure.
pub fn folder(name: &str) -> Option<PathBuf> {
    let folder = cache().join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    skip(&format!(
        "the peer `{name}` is missing; run `tests/setup` (for all: `tests/setup heavy`)"
    ));
    None
}

/// Says what keeps a test from running here. With `CI=true` that is a failure.
pub fn skip(reason: &str) {
    assert!(variable("CI").as_deref() != Some("true"), "{reason}");
    eprintln!("SKIPPED: {reason}");
}

/// The Python interpreter that has py-spiffe.
pub fn python() -> Option<Command> {
    Some(Command::new(folder("python")?.join("bin/python3")))
}

/// Envoy.
pub fn envoy() -> Option<PathBuf> {
    Some(folder("python")?.join("bin/envoy"))
}

/// A Java program of `tests/peers/java`.
pub fn java(class: &str) -> Option<Command> {
    let folder = folder("java")?;
    let mut command = Command::new("java");
    command.arg("-cp");
    command.arg(format!("{0}/classes:{0}/lib/*", folder.display()));
    command.arg(class);
    Some(command)
}

/// A program of Debian's that `tests/setup` installs, and that only root can use here.
pub fn program_of_root(name: &str) -> Option<Command> {
    if !nix::unistd::geteuid().is_root() {
        skip(&format!("the peer `{name}` needs root"));
        return None;
    }
    program(name)
}

/// A program of Debian's that `tests/setup` installs.
pub fn program(name: &str) -> Option<Command> {
    let found = variable("PATH").is_some_and(|path| {
        let mut folders = path.split(':').map(PathBuf::from);
        folders.any(|folder| folder.join(name).is_file())
    });
    if !found {
        skip(&format!("the peer `{name}` is missing; run `tests/setup`"));
    }
    found.then(|| Command::new(name))
}

fn cache() -> PathBuf {
    if let Some(folder) = variable("SIGNET_PEERS") {
        return folder.into();
    }
    let base = variable("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(variable("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    base.join("signet-peers")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests have no `main` of their own"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
