//! The configuration files that come with SPIRE: ours accepts what SPIRE accepts, or names what is not built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::process::{Ended, run};
use tests::programs::Make::{self, Signet, Spire};

/// What a refusal for something that is not built says.
const NOT_BUILT: [&str; 2] = ["not built", "for Windows"];

/// What a refusal of a file that names no plugin says. SPIRE says it when such a file is run.
const NEEDED: &str = " is needed, ";

#[test]
fn every_file_of_spires_is_accepted_or_refused_for_what_is_not_built() {
    if tests::peers::folder("spire").is_none() {
        return;
    }
    let (mut accepted, mut unbuilt, mut incomplete, mut both) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for file in files(&module()) {
        let Some(part) = part(&file) else { continue };
        let ours = validate(Signet, part, &file);
        if ours.code == 0 {
            accepted += 1;
            continue;
        }
        let says = |words: &&str| ours.stderr.contains(words);
        if NOT_BUILT.iter().any(says) {
            unbuilt += 1;
        } else if ours.stderr.lines().all(|line| line.contains(NEEDED)) {
            incomplete += 1;
        } else if validate(Spire, part, &file).code != 0 {
            both += 1;
        } else {
            wrong.push(format!("{}: {}", file.display(), ours.stderr));
        }
    }
    println!(
        "{accepted} accepted, {unbuilt} with what is not built, {incomplete} without a plugin that is needed, {both} refused by SPIRE too"
    );
    assert!(incomplete <= 1, "{incomplete} lack a plugin");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted >= 45, "only {accepted} were accepted");
}

/// Where the module is, from which the peer was built. It is fetched if only the programs are there.
fn module() -> PathBuf {
    let mut command = Command::new("go");
    command.args(["mod", "download", "-json", "github.com/spiffe/spire"]);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/spire"));
    let said = run(&mut command).success();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    PathBuf::from(said["Dir"].as_str().unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if path.is_dir() {
            found.extend(files(&path));
        } else if matches!(ending, Some("conf" | "hcl")) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whose configuration a file is; `None` for those of other programs.
fn part(file: &Path) -> Option<&'static str> {
    let text = fs::read_to_string(file).unwrap();
    let begins = |word: &str| {
        let mut lines = text.lines().map(str::trim_start);
        lines.any(|line| {
            line.strip_prefix(word)
                .is_some_and(|rest| rest.trim_start().starts_with('{'))
        })
    };
    ["server", "agent"].into_iter().find(|word| begins(word))
}

fn validate(make: Make, part: &str, file: &Path) -> Ended {
    let mut command = match part {
        "server" => make.server(),
        _ => make.agent(),
    };
    command
        .args(["validate", "-expandEnv", "-config"])
        .arg(file);
    // Some name other files beside them.
    command.current_dir(file.parent().unwrap());
    run(&mut command)
}
