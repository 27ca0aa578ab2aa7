//! The gate, around services that can be held up.

use std::convert::Infallible;

use http::{Request, Response};
use prometheus_client::registry::Registry;
use runtime::shutdown::Shutdown;
use runtime::unix::Credentials;
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codegen::Service as _;

use super::*;
use crate::api::metrics::RpcMetrics;
use crate::store::Store;

/// How long the test waits before it calls that a hang.
const HANG: std::time::Duration = std::time::Duration::from_secs(60);

async fn gate() -> Arc<Gate> {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let tasks = TaskGroup::new(Shutdown::new().0);
    let store = Store::memory();
    let index = Index::start(store.clone(), &trust_domain, &tasks)
        .await
        .unwrap();
    Arc::new(Gate {
        trust_domain,
        writer: Writer::new(store, index.clone()),
        index,
        clock: Clock::system(),
        admin_ids: BTreeSet::new(),
        audit: Audit::new(true, &mut Registry::default()),
        metrics: RpcMetrics::register(&mut Registry::default()),
        presence: Presence::default(),
        tasks,
    })
}

fn request(path: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    let local = Credentials {
        pid: None,
        uid: 0,
        gid: 0,
    };
    request.extensions_mut().insert(local);
    request
}

#[tokio::test]
async fn what_acts_goes_on_to_its_end_though_its_caller_resets_the_stream() {
    let gate = gate().await;
    let [entered, go, done] = [(); 3].map(|()| Arc::new(Notify::new()));
    let notes = (Arc::clone(&entered), Arc::clone(&go), Arc::clone(&done));
    let service = tower::service_fn(move |_: Request<Body>| {
        let (entered, go, done) = notes.clone();
        async move {
            entered.notify_one();
            // Here a commit is made.
            go.notified().await;
            // And here the trail is told of it.
            done.notify_one();
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let call = Gated::new(gate, service)
        .call(request("/spire.api.server.entry.v1.Entry/BatchCreateEntry"));
    tokio::select! {
        _ = call => panic!("nobody let it go on"),
        () = entered.notified() => {}
    }
    go.notify_one();
    let done = tokio::time::timeout(HANG, done.notified()).await;
    done.expect("it goes on though nobody waits for it");
}
