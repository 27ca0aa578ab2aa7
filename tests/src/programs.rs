//! The programs under test: `signet`, built from this tree, and real SPIRE.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::peers;

/// The path of `signet`, built on the first use so that a test of this crate alone never runs an old one.
pub fn signet() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let this = std::env::current_exe().unwrap();
        let beside = this.parent().unwrap();
        // Tests stand one folder below the programs.
        let folder = match beside.ends_with("deps") {
            true => beside.parent().unwrap(),
            false => beside,
        };
        let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        build.args(["build", "--quiet", "--bin", "signet", "--package", "cli"]);
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        match folder.ends_with("release") {
            // What ships.
            true => build.arg("--release"),
            // With what this package asks of others beside it, the parts are those that the tests are made of, and
            // nothing is built twice.
            false => build.args(["--package", "tests"]),
        };
        let status = build.status().unwrap();
        assert!(status.success(), "`signet` does not build");
        folder.join("signet")
    })
}

/// Whose program to run. Either takes the same configuration and command lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Make {
    Signet,
    Spire,
}

impl Make {
    /// A command of the server's program.
    pub fn server(self) -> Command {
        self.command("server")
    }

    /// A command of the agent's program.
    pub fn agent(self) -> Command {
        self.command("agent")
    }

    fn command(self, part: &str) -> Command {
        match self {
            Self::Signet => {
                let mut command = Command::new(signet());
                command.arg(part);
                command
            }
            Self::Spire => {
                let folder =
                    peers::folder("spire").expect("a test of SPIRE asks for the peer first");
                Command::new(folder.join(format!("spire-{part}")))
            }
        }
    }
}
