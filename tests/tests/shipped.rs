//! What we ship for others to run is accepted by what we build.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what goes wrong in a helper is the failure of the test that calls it"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::process::run;
use tests::programs::signet;

#[test]
fn the_configurations_of_the_manifests_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s/deploy/signet");
    for part in ["server", "agent"] {
        let mut command = Command::new(signet());
        command.args([part, "validate", "-expandEnv", "-config"]);
        command.arg(folder.join(format!("{part}.conf")));
        let ended = run(command.env("MY_NODE_ADDRESS", "10.0.0.1"));
        assert!(ended.clone().success().contains("is valid"), "{ended:?}");
    }
}

/// Where units and their configurations are.
fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/systemd")
}

/// The settings of a unit, in their order.
fn settings(part: &str) -> Vec<(String, String)> {
    let path = units().join(format!("signet-{part}.service"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    let said = lines.filter(|line| !line.starts_with(['#', '[']));
    let split = |line: &str| {
        let (key, value) = line.split_once('=').expect(line);
        (key.to_owned(), value.to_owned())
    };
    said.map(split).collect()
}

/// All values of a setting.
fn values(settings: &[(String, String)], key: &str) -> Vec<String> {
    let found = settings.iter().filter(|(found, _)| found == key);
    found.map(|(_, value)| value.clone()).collect()
}

#[test]
fn the_units_of_systemd_run_commands_that_there_are_with_configurations_that_are_valid() {
    for part in ["server", "agent"] {
        let settings = settings(part);
        let commands = [("ExecStart", "run"), ("ExecStartPre", "validate")];
        for (key, verb) in commands {
            let command = values(&settings, key).concat();
            let mut words = command.split(' ');
            let program = Path::new(words.next().unwrap());
            assert_eq!(program.file_name().unwrap(), "signet");
            assert_eq!((words.next(), words.next()), (Some(part), Some(verb)));
            assert_eq!(words.next(), Some("-config"));
            let config = Path::new(words.next().unwrap()).file_name().unwrap();
            assert_eq!(words.next(), None, "{command}");
            // The very file, by the very flags.
            let mut validate = Command::new(signet());
            validate.args([part, "validate", "-config"]);
            let ended = run(validate.arg(units().join(config)));
            assert!(ended.clone().success().contains("is valid"), "{ended:?}");
        }
    }
}

#[test]
fn the_units_of_systemd_give_their_programs_the_folders_that_the_configurations_name() {
    for part in ["server", "agent"] {
        let settings = settings(part);
        let config = std::fs::read_to_string(units().join(format!("{part}.conf"))).unwrap();
        let quoted = config.split('"').skip(1).step_by(2);
        let paths: Vec<_> = quoted.filter(|text| text.starts_with('/')).collect();
        let given: Vec<_> = [("StateDirectory", "/var/lib"), ("RuntimeDirectory", "/run")]
            .iter()
            .flat_map(|(key, below)| {
                let names = values(&settings, key).concat();
                let names: Vec<_> = names.split(' ').map(str::to_owned).collect();
                names
                    .into_iter()
                    .map(move |name| Path::new(below).join(name))
            })
            .collect();
        assert!(paths.len() >= 4, "{paths:?}");
        for path in paths {
            let is_given = given
                .iter()
                .any(|folder| Path::new(path).starts_with(folder));
            assert!(is_given || path.starts_with("/etc/signet/"), "{path}");
        }
        let modes = values(&settings, "StateDirectoryMode");
        assert_eq!(modes, ["0700"]);
    }
}

#[test]
fn the_units_of_systemd_are_closed_as_far_as_their_programs_allow() {
    let agent = settings("agent");
    let said = |key: &str| values(&agent, key).concat();
    // Callers are found out in /proc, and their programs are read.
    assert!(values(&agent, "ProtectProc").is_empty() && values(&agent, "ProcSubset").is_empty());
    assert_eq!(
        said("CapabilityBoundingSet"),
        "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"
    );
    // Containers hold the folder of the socket.
    assert_eq!(said("RuntimeDirectoryPreserve"), "yes");
    assert_eq!(values(&settings("server"), "CapabilityBoundingSet"), [""]);
    for part in ["server", "agent"] {
        let settings = settings(part);
        for (key, value) in [
            ("Restart", "always"),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("PrivateTmp", "yes"),
            ("MemoryDenyWriteExecute", "yes"),
            ("LimitCORE", "0"),
        ] {
            assert_eq!(values(&settings, key), [value], "{part}: {key}");
        }
    }
}

#[test]
fn systemd_takes_its_units() {
    let found = Command::new("systemd-analyze").arg("--version").output();
    if !found.is_ok_and(|found| found.status.success()) {
        println!("skipped: there is no systemd-analyze here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let installed = values(&settings("agent"), "ExecStart").concat();
    let (program, _) = installed.split_once(' ').unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify");
    for part in ["server", "agent"] {
        let name = format!("signet-{part}.service");
        let unit = std::fs::read_to_string(units().join(&name)).unwrap();
        // The program has to be there.
        let unit = unit.replace(program, &signet().display().to_string());
        let path = folder.path().join(&name);
        std::fs::write(&path, unit).unwrap();
        verify.arg(path);
    }
    let verified = verify.output().unwrap();
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    // Of other units that are there it may have something to say.
    let ours: Vec<_> = told
        .lines()
        .filter(|line| line.contains("signet-"))
        .collect();
    assert!(verified.status.success() && ours.is_empty(), "{ours:?}");
}
