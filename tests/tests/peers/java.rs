//! A Java program over netty's Unix sockets: it sends the raw path as `:authority`.

use tests::domain::Plan;
use tests::process::run;
use tests::programs::Make::Signet;

#[test]
fn a_java_client_calls_the_health_service() {
    let Some(mut java) = tests::peers::java("signet.peer.Health") else {
        return;
    };
    let domain = Plan::new(Signet).start();
    let agent = domain.agent(Signet);
    let printed = run(java.arg(agent.socket()).arg("200")).success();
    assert_eq!(
        printed.lines().filter(|line| *line == "SERVING").count(),
        200,
        "{printed}"
    );
}
