//! `explain`: Signet's own command.

use proto::signet::node::explain_client::ExplainClient;
use proto::signet::node::explain_request::Subject;
use proto::signet::node::{
    EntryName, ExplainRequest, ExplainResponse, Explanation, Gone, Match, Missing, Near, PodName,
    Sight, Standing,
};

use super::connect;
use crate::console::{Console, say};
use crate::failure::Failure;
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{go, json, rpc};

pub(super) async fn explain(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let subject = Some(subject(values)?);
    let mut client =
        ExplainClient::new(connect(values).await?).max_decoding_message_size(rpc::MAX_ANSWER);
    let answer = client.explain(ExplainRequest { subject }).await;
    let answer = answer.map_err(|status| rpc::failed(&status))?.into_inner();
    let console = &mut session.console;
    if values.output() == Output::Json {
        const NAME: &str = ".signet.node.v1.ExplainResponse";
        say!(console, "{}", json::agent(NAME, &answer)?);
    } else {
        print(console, &answer);
    }
    Ok(())
}

fn subject(values: &Values) -> Result<Subject, Failure> {
    let pid = values.int("pid");
    match (pid, values.given("pod")) {
        (0, None) => Err(Failure::new(
            "a process (-pid) or a pod (-pod) must be named",
        )),
        (0, Some(pod)) => match pod.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Subject::Pod(PodName {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                }))
            }
            _ => Err(Failure::new(format!(
                "the pod {pod:?} is not written as NAMESPACE/NAME"
            ))),
        },
        (pid, None) => {
            let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
            let pid = pid.ok_or_else(|| Failure::new("the number of a process is positive"))?;
            Ok(Subject::Pid(pid))
        }
        (_, Some(_)) => Err(Failure::new("only one of -pid and -pod can be given")),
    }
}

fn print(console: &mut Console, answer: &ExplainResponse) {
    for process in &answer.processes {
        explained(console, process);
        say!(console);
    }
    if let Some(agent) = &answer.agent {
        standing(console, agent);
    }
}

fn explained(console: &mut Console, process: &Explanation) {
    let Explanation { pid, uid, gid, .. } = process;
    say!(
        console,
        "Process          : {pid} (user {uid}, group {gid})"
    );
    say!(
        console,
        "Identity         : {}",
        if process.has_identity { "yes" } else { "no" }
    );
    say!(console, "Because          : {}", process.verdict);
    for sight in &process.attestors {
        attestor(console, sight);
    }
    for found in &process.matching {
        matching(console, found);
    }
    for Near { entry, missing } in &process.nearest {
        say!(console, "Nearly matches   : {}", named(entry.as_ref()));
        lacking(console, missing);
    }
    for gone in &process.withdrawn {
        withdrawn(console, gone);
    }
}

fn attestor(console: &mut Console, sight: &Sight) {
    let why = match sight.error.as_str() {
        "" => String::new(),
        error => format!(": {error} ({})", sight.reason),
    };
    say!(
        console,
        "Attestor         : {} {}{why}",
        sight.attestor,
        sight.outcome
    );
    for selector in &sight.selectors {
        say!(console, "  Selector       : {selector}");
    }
}

fn matching(console: &mut Console, found: &Match) {
    say!(
        console,
        "Matches          : {}",
        named(found.entry.as_ref())
    );
    say!(console, "  X509-SVID      : {}", found.state);
    if !found.serial.is_empty() {
        say!(console, "  Serial number  : {}", found.serial);
        times(
            console,
            &[
                ("Issued at", found.issued_at),
                ("Renews at", found.renews_at),
                ("Expires at", found.expires_at),
            ],
        );
    }
    if !found.refusal.is_empty() {
        say!(console, "  Refusal        : {}", found.refusal);
    }
    times(
        console,
        &[
            ("Refused at", found.refused_at),
            ("Tried again at", found.retries_at),
        ],
    );
}

fn withdrawn(console: &mut Console, gone: &Gone) {
    let how = if gone.expired {
        "expired"
    } else {
        "taken away by the server"
    };
    say!(console, "Was there        : {}", named(gone.entry.as_ref()));
    say!(
        console,
        "  Gone           : {how}, {}",
        go::unix_rfc3339(gone.withdrawn_at)
    );
    lacking(console, &gone.missing);
}

fn lacking(console: &mut Console, missing: &[Missing]) {
    for Missing { selector, instead } in missing {
        let instead = match instead.as_slice() {
            [] => String::new(),
            instead => format!(" (the process has {})", instead.join(", ")),
        };
        say!(console, "  Missing        : {selector}{instead}");
    }
}

fn standing(console: &mut Console, agent: &Standing) {
    say!(console, "Agent            : {}", agent.spiffe_id);
    say!(console, "  Entries        : {}", agent.entries);
    times(console, &[("SVID until", agent.svid_expires_at)]);
    if agent.last_sync_success == 0 {
        say!(console, "  Synchronized   : never");
    }
    times(
        console,
        &[
            ("Synchronized", agent.last_sync_success),
            ("Failing since", agent.failing_since),
        ],
    );
    if !agent.failure.is_empty() {
        say!(
            console,
            "  Failure        : {} ({})",
            agent.failure,
            agent.failure_reason
        );
    }
    if !agent.denial.is_empty() {
        say!(console, "  Denied         : {}", agent.denial);
        times(console, &[("Denied at", agent.denied_at)]);
    }
}

/// Those that are there.
fn times(console: &mut Console, times: &[(&str, i64)]) {
    for (name, seconds) in times.iter().filter(|(_, seconds)| *seconds != 0) {
        say!(console, "  {name:<15}: {}", go::unix_rfc3339(*seconds));
    }
}

fn named(entry: Option<&EntryName>) -> String {
    let Some(entry) = entry else {
        return String::new();
    };
    let until = match entry.expires_at {
        0 => String::new(),
        seconds => format!(", expires {}", go::unix_rfc3339(seconds)),
    };
    format!("{} (entry {}{until})", entry.spiffe_id, entry.id)
}
