//! `migrate`: moves a trust domain from a SPIRE server that runs to a server of ours that runs beside it.
//!
//! The order is the feature. What the old server has is taken over first; then our authorities join its
//! bundle, so that agents know us before they meet us, since a SPIRE agent that meets an unknown root
//! ends; and the servers may be switched only after agents had the time to hear of it. A run without
//! `-apply` changes nothing, and every run may be made again.

mod authorities;
mod federation;
mod ours;
mod pass;
mod report;
mod state;
mod tally;
mod way_back;

use std::path::{Path, PathBuf};

use self::pass::{Doing, Move};
use self::report::Report;
use crate::console::say;
use crate::failure::Failure;
use crate::flags::Values;
use crate::session::Session;
use crate::socket::SERVER;
use crate::{admin, go, rpc};

/// How many synchronizations an agent may miss and still know our authorities at the switch.
const SYNCHRONIZATIONS: u32 = 3;

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Plan,
    Apply,
    Verify,
}

/// Plans, makes or verifies a move.
pub(crate) async fn run(session: &mut Session, values: &Values) -> Result<(), Failure> {
    if let Some(file) = values.given("wayBack") {
        return way_back::write(session, values, Path::new(file)).await;
    }
    let mode = mode(values)?;
    let from = from(session, values)?;
    let dialed = format!("//{}", from.display());
    let theirs = rpc::connect(&from, &dialed).await;
    let theirs = theirs.map_err(|failure| failure.context("-from"))?;
    let ours = admin::connect(session, values).await?;
    let mut moved = Move {
        theirs,
        ours,
        clock: session.clock.clone(),
        prune: values.switch("prune"),
    };
    match mode {
        Mode::Apply => apply(&mut moved, session, values).await,
        Mode::Verify => verified(&mut moved, session).await,
        Mode::Plan => {
            moved.pass(Doing::Plan).await?.print(&mut session.console);
            say!(session.console, "Nothing was changed. Add -apply to do it.");
            Ok(())
        }
    }
}

async fn apply(moved: &mut Move, session: &mut Session, values: &Values) -> Result<(), Failure> {
    let report = moved.pass(Doing::Apply).await?;
    report.print(&mut session.console);
    report.check_refused()?;
    let wait = values.duration("syncInterval") * SYNCHRONIZATIONS;
    say!(
        session.console,
        "The old server's agents hear of our authorities as they synchronize. Waiting {}, which is {SYNCHRONIZATIONS} times -syncInterval.",
        go::duration(wait)
    );
    session.clock.sleep(wait).await;
    // What changed there meanwhile: entries of a controller, agents that renewed.
    let meanwhile = moved.pass(Doing::Apply).await?;
    if meanwhile.appends() {
        meanwhile.print(&mut session.console);
        return Err(Failure::new(
            "this server has new authorities since the run began, which agents do not know yet; run it again",
        ));
    }
    verified(moved, session).await
}

/// Tells whether everything has been taken over.
async fn verified(moved: &mut Move, session: &mut Session) -> Result<(), Failure> {
    let report = moved.pass(Doing::Plan).await?;
    report.print(&mut session.console);
    report.check_refused()?;
    report.check_settled()?;
    say!(session.console, "{}", Report::READY);
    Ok(())
}

fn mode(values: &Values) -> Result<Mode, Failure> {
    match (values.switch("apply"), values.switch("verify")) {
        (true, true) => Err(Failure::new("-apply verifies by itself; leave out -verify")),
        (true, false) => Ok(Mode::Apply),
        (false, true) => Ok(Mode::Verify),
        (false, false) => Ok(Mode::Plan),
    }
}

/// The socket of the old server, which is another one than ours.
fn from(session: &Session, values: &Values) -> Result<PathBuf, Failure> {
    let from = values.given("from").ok_or_else(|| {
        Failure::new("the API socket of the server to move from is required (-from)")
    })?;
    let from = PathBuf::from(from);
    let ours = SERVER.path(values, &session.environment)?;
    let real = |path: &Path| path.canonicalize().ok();
    if from == ours || real(&from).is_some_and(|from| real(&ours) == Some(from)) {
        return Err(Failure::new(format!(
            "-from and -socketPath are one server, {}; the server to move to has a socket of its own",
            ours.display()
        )));
    }
    Ok(from)
}
