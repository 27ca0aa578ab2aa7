//! The table compared with what was recorded of SPIRE.

use std::collections::BTreeMap;

use super::*;

/// What was recorded of SPIRE's programs: a command, then its flags with type and default.
const RECORDED: &str = include_str!("spire.txt");

fn recorded() -> BTreeMap<&'static str, Vec<(&'static str, &'static str, &'static str)>> {
    let mut commands = BTreeMap::new();
    let mut name = "";
    for line in RECORDED.lines() {
        match line.strip_prefix("  -") {
            None => {
                name = line;
                commands.insert(name, Vec::new());
            }
            Some(fact) => {
                let mut words = fact.splitn(3, ' ');
                let mut word = || words.next().unwrap_or_default();
                commands
                    .get_mut(name)
                    .unwrap()
                    .push((word(), word(), word()));
            }
        }
    }
    commands
}

fn spelled(flag: &Flag) -> (&'static str, &'static str, &'static str) {
    let kind = match flag.kind {
        Kind::Text => "string",
        Kind::Switch => "bool",
        Kind::Int => "int",
        Kind::Span => "duration",
        Kind::Duration | Kind::List | Kind::Commas | Kind::Either | Kind::Output => "value",
    };
    (flag.name, kind, flag.default)
}

#[test]
fn every_command_of_spire_has_spires_flags_types_and_defaults() {
    let recorded = recorded();
    let mut compared = 0;
    for command in commands() {
        let Some(facts) = recorded.get(command.path) else {
            assert!(
                [
                    "dev",
                    "migrate",
                    "server backup",
                    "server restore",
                    "agent api fetch",
                    "agent explain",
                    "k8s csi",
                    "k8s healthcheck"
                ]
                .contains(&command.path),
                "`{}` is not SPIRE's",
                command.path
            );
            continue;
        };
        let mut ours: Vec<_> = command
            .flags
            .flags()
            .filter(|flag| !flag.own)
            .map(spelled)
            .collect();
        ours.sort_unstable();
        assert_eq!(&ours, facts, "{}", command.path);
        compared += 1;
    }
    assert_eq!(compared, recorded.len());
}

#[test]
fn no_command_and_no_flag_stands_twice() {
    let mut paths: Vec<_> = commands().map(|command| command.path).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), commands().count());
    for command in commands() {
        let mut names: Vec<_> = command.flags.flags().map(|flag| flag.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{}", command.path);
    }
}
