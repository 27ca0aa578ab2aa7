//! The agent's admin socket: what an operator is told, and what a delegate may have.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{getgid, getuid};
use proto::spire::agent::delegatedidentity::delegated_identity_client::DelegatedIdentityClient;
use proto::spire::agent::delegatedidentity::{
    SubscribeToX509sviDsRequest, SubscribeToX509sviDsResponse,
};
use proto::spire::types::Selector;
use tests::api::admin_channel;
use tests::domain::{Agent, Domain, Plan};
use tests::process::{Ended, HANG, eventually, run};
use tests::programs::Make::Signet;
use tests::programs::signet;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

fn domain(keys: &str) -> (Domain, Agent, PathBuf) {
    let domain = Plan::new(Signet).start();
    // Not in the folder of the workloads' socket.
    let socket = domain.folder().join("admin.sock");
    let keys = format!("admin_socket_path = \"{}\"\n{keys}", socket.display());
    let agent = domain.agent_with(Signet, &keys);
    (domain, agent, socket)
}

fn ask(socket: &Path, words: &[&str], flags: &[&str]) -> Ended {
    let mut command = Command::new(signet());
    command.arg("agent").args(words).arg("-socketPath");
    run(command.arg(socket).args(flags))
}

#[test]
fn an_operator_is_told_why_a_process_has_no_identity() {
    let (domain, agent, socket) = domain("log_selectors = [\"unix:uid\"]");
    let pid = std::process::id().to_string();
    let explain = || ask(&socket, &["explain"], &["-pid", &pid]).success();
    let told = |words: &str| eventually(words, || explain().contains(words));
    let (uid, gid) = (getuid().as_raw(), getgid());

    let text = explain();
    assert!(
        text.contains("Identity         : no") && text.contains("the agent's 0 entries comes"),
        "{text}"
    );

    domain.entry(&agent, "/web", &format!("unix:uid:{}", uid + 1), &[]);
    told(&format!(
        "also asks for unix:uid:{} (the process has unix:uid:{uid})",
        uid + 1
    ));
    // The workload learns nothing of that, and the log has it in short.
    let refused = agent.api(Signet, &["fetch", "x509"]);
    assert_eq!(
        refused.stderr,
        "rpc error: code = PermissionDenied desc = no identity issued\n"
    );
    eventually("the log tells why", || {
        let log = agent.process.text();
        let mut lines = log.lines();
        lines
            .any(|line| line.contains("No identity issued") && line.contains("also asks for unix:"))
    });

    let missing = "unix:supplementary_gid:4294967";
    let own = format!("unix:uid:{uid}");
    domain.entry(&agent, "/nearly", &own, &["-selector", missing]);
    told(&format!("which also asks for {missing}"));

    let id = domain.entry(&agent, "/mine", &format!("unix:gid:{gid}"), &[]);
    told("Because          : it has 1 identity");
    let json = ask(&socket, &["explain"], &["-pid", &pid, "-output", "json"]).success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let process = &json["processes"][0];
    assert_eq!(process["has_identity"], true);
    assert_eq!(process["matching"][0]["state"], "issued");
    assert_eq!(process["attestors"][0]["attestor"], "unix");

    domain.cli(&["entry", "delete", "-entryID", &id]).success();
    told(&format!(
        "entry `{id}` (spiffe://example.org/mine) was taken away by the server at"
    ));
}

#[test]
fn what_is_asked_for_wrongly_is_told() {
    let (_domain, _agent, socket) = domain("");
    for (flags, words) in [
        (&[][..], "a process (-pid) or a pod (-pod) must be named"),
        (
            &["-pid", "1", "-pod", "a/b"][..],
            "only one of -pid and -pod can be given",
        ),
        (&["-pod", "web-0"][..], "is not written as NAMESPACE/NAME"),
        (
            &["-pod", "shop/web-0"][..],
            "has no workload attestor `k8s`",
        ),
        (
            &["-pid", "2147483647"][..],
            "peer process `2147483647` has exited",
        ),
    ] {
        let ended = ask(&socket, &["explain"], flags);
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
}

#[test]
fn the_log_level_and_the_agent_itself_are_shown_as_spire_shows_them() {
    let (_domain, agent, socket) = domain("");
    let level = |words: &[&str], flags: &[&str]| ask(&socket, words, flags).success();
    let before = level(&["logger", "get"], &[]);
    assert_eq!(before, "Logger Level : debug\nLaunch Level : debug\n\n");
    let set = level(&["logger", "set"], &["-level", "error", "-output", "json"]);
    assert_eq!(
        set,
        "{\"current_level\":\"ERROR\",\"launch_level\":\"DEBUG\"}\n"
    );
    assert_eq!(level(&["logger", "reset"], &[]), before);
    let refused = ask(&socket, &["logger", "set"], &["-level", "bogus"]);
    assert_eq!(
        refused.stderr,
        "Error: the value \"bogus\" is not a valid setting\n"
    );
    let info = level(&["debug", "getinfo"], &[]);
    assert!(
        info.starts_with("Agent Debug Info:\n  Uptime:                          "),
        "{info}"
    );
    let own = format!("    [0] SPIFFE ID:  {}\n        Subject:    ", agent.id);
    assert!(info.contains(&own), "{info}");
    assert!(
        info.contains("    [1] SPIFFE ID:  spiffe://example.org\n"),
        "{info}"
    );
}

type Svids = Streaming<SubscribeToX509sviDsResponse>;

async fn follow(client: &mut DelegatedIdentityClient<Channel>) -> Result<Svids, Status> {
    let selectors = vec![Selector {
        r#type: "x".to_owned(),
        value: "1".to_owned(),
    }];
    let request = SubscribeToX509sviDsRequest { selectors, pid: 0 };
    let answer = client.subscribe_to_x509svi_ds(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn next(stream: &mut Svids) -> Result<SubscribeToX509sviDsResponse, Status> {
    let next = tokio::time::timeout(HANG, stream.message());
    next.await.unwrap().map(Option::unwrap)
}

fn paths(update: &SubscribeToX509sviDsResponse) -> Vec<String> {
    let svids = update.x509_svids.iter();
    let ids = svids.map(|svid| svid.x509_svid.as_ref().unwrap().id.as_ref().unwrap());
    ids.map(|id| id.path.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegate_has_the_identities_of_others_until_its_entry_is_gone() {
    let (domain, agent, socket) =
        domain("authorized_delegates = [\"spiffe://example.org/delegate\"]");
    let own = format!("unix:uid:{}", getuid());
    domain.entry(&agent, "/other", "x:1", &[]);
    domain.entry(&agent, "/operator", "x:1", &["-admin"]);
    let mut client = DelegatedIdentityClient::new(admin_channel(&socket).await);
    let refused = async |client: &mut DelegatedIdentityClient<Channel>, words: &str| {
        loop {
            let status = follow(client).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied);
            if status.message() == words {
                return;
            }
        }
    };
    refused(&mut client, "no identity issued").await;
    domain.entry(&agent, "/somebody", &own, &[]);
    refused(
        &mut client,
        "caller not configured as an authorized delegate",
    )
    .await;

    let id = domain.entry(&agent, "/delegate", &own, &[]);
    let mut stream = loop {
        if let Ok(stream) = follow(&mut client).await {
            break stream;
        }
    };
    assert_eq!(paths(&next(&mut stream).await.unwrap()), ["/other"]);

    domain.cli(&["entry", "delete", "-entryID", &id]).success();
    // What follows the deletion is the next that would be sent.
    domain.entry(&agent, "/another", "x:1", &[]);
    let status = loop {
        if let Err(status) = next(&mut stream).await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied);
}
