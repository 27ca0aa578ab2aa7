//! `api fetch x509` and `api watch`.

mod answer;
mod print;
mod save;

use std::time::Duration;

use prost::Message;
use proto::workload::X509svidRequest;
use runtime::backoff::Backoff;
use tokio::time::Instant;
use tonic::{Code, Status};

use self::answer::Svid;
use super::{client, first, request, within};
use crate::console::{say, tell};
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{go, json, rpc};

pub(super) async fn fetch(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let started = Instant::now();
    let mut client = client(session, values).await?;
    let opened = client.fetch_x509svid(request(X509svidRequest {}));
    let answer = within(values, first(opened))
        .await
        .map_err(|status| rpc::failed(&status))?;
    let took = started.elapsed();
    if values.output() == Output::Json {
        let messages = [(".X509SVIDResponse", answer.encode_to_vec())];
        say!(session.console, "{}", json::workload(&messages)?);
        return Ok(());
    }
    let svids = Svid::of(&answer)?;
    for svid in &svids {
        svid.verify(session.clock.now())?;
    }
    if !values.switch("silent") {
        print::svids(&mut session.console, &svids, took, print::Manner::Fetch);
    }
    match values.given("write") {
        Some(folder) => save::svids(&mut session.console, folder.as_ref(), &svids),
        None => Ok(()),
    }
}

/// The longest wait between two tries, as go-spiffe's.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn watch(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let canceled = Failure::new(go::status(&Status::cancelled("context canceled")));
    tokio::select! {
        // The end by Ctrl-C is told twice and is a failure, as of SPIRE's program.
        _ = tokio::signal::ctrl_c() => {}
        ended = follow(session, values) => return ended,
    }
    tell!(session.console, "{canceled}");
    Err(canceled)
}

async fn follow(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let mut backoff = Backoff::new(Duration::from_secs(1), LONGEST_WAIT);
    let mut since = Instant::now();
    loop {
        let failure = match updates(session, values, &mut since, &mut backoff).await {
            Ended::Refused(failure) => {
                tell!(session.console, "{failure}");
                return Err(failure);
            }
            Ended::Lost(failure) => failure,
        };
        tell!(session.console, "{failure}");
        let wait = backoff.next_delay();
        session.clock.sleep(wait).await;
    }
}

/// How a stream of updates ended.
enum Ended {
    /// Asking again is of no use.
    Refused(Failure),
    Lost(Failure),
}

async fn updates(
    session: &mut Session,
    values: &Values,
    since: &mut Instant,
    backoff: &mut Backoff,
) -> Ended {
    let ended = |status: &Status| match status.code() {
        Code::InvalidArgument | Code::Cancelled => Ended::Refused(rpc::failed(status)),
        _ => Ended::Lost(rpc::failed(status)),
    };
    let mut client = match client(session, values).await {
        Ok(client) => client,
        Err(failure) => return Ended::Lost(failure),
    };
    let mut stream = match client.fetch_x509svid(request(X509svidRequest {})).await {
        Ok(response) => response.into_inner(),
        Err(status) => return ended(&status),
    };
    loop {
        let answer = match stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ended::Lost(Failure::new("EOF")),
            Err(status) => return ended(&status),
        };
        backoff.reset();
        match Svid::of(&answer) {
            Ok(svids) => {
                print::svids(
                    &mut session.console,
                    &svids,
                    since.elapsed(),
                    print::Manner::Watch,
                );
            }
            Err(failure) => tell!(session.console, "{failure}"),
        }
        *since = Instant::now();
    }
}
