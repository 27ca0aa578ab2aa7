//! The program `signet`: the server, the agent, the commands that ask them, and `signet dev`.
//!
//! Called by the name `spire-server` or `spire-agent` it takes those programs' command lines.

mod admin;
mod agent_admin;
mod backup;
mod command;
mod console;
mod daemon;
mod dev;
mod failure;
mod files;
mod flags;
mod go;
mod json;
mod k8s;
mod life;
mod logger;
mod migrate;
mod program;
mod rpc;
mod session;
mod socket;
mod table;
mod workload;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use runtime::clock::Clock;

use crate::console::Console;
use crate::session::Session;
use crate::socket::Environment;

fn main() -> anyhow::Result<ExitCode> {
    let mut words = Vec::new();
    for word in std::env::args_os() {
        let text = word.into_string();
        words.push(text.map_err(|word| anyhow!("the argument {word:?} is not UTF-8"))?);
    }
    let (called, args) = words.split_first().context("the program has no name")?;
    let name = Path::new(called).file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    let mut session = Session {
        program: called.clone(),
        console: Console::process(),
        // The one place that reads the environment. What is not UTF-8 is no setting of ours.
        environment: Environment::new(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        })),
        clock: Clock::system(),
        confinement: None,
    };
    #[cfg(debug_assertions)]
    if let Some(point) = session.environment.get(runtime::failpoint::VARIABLE) {
        runtime::failpoint::arm(point);
    }
    program::prepare(name, args, &mut session)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let code = runtime.block_on(program::run(name, args, &mut session));
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}
