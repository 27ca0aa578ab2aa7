//! Facts about the pages, seen by a client that knows nothing of hyper.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::listen::bind_tcp;
use crate::shutdown::{Reason, ShutdownTrigger};

struct Served {
    addr: SocketAddr,
    trigger: ShutdownTrigger,
    tasks: TaskGroup,
}

fn serve_here(pages: Pages) -> Served {
    let (trigger, shutdown) = Shutdown::new();
    let tasks = TaskGroup::new(trigger.clone());
    let bound = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = bound.addr();
    let serving = serve(bound, pages, shutdown, tasks.clone());
    tasks.spawn("admin", async { serving.await.unwrap() });
    Served {
        addr,
        trigger,
        tasks,
    }
}

impl Served {
    async fn ask(&self, head: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (
            head.lines().next().unwrap_or_default().to_owned(),
            body.to_owned(),
        )
    }

    async fn get(&self, path: &str) -> (String, String) {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .await
    }
}

fn health_pages(readiness: &Readiness) -> Pages {
    Pages::Health {
        live_path: "/live".into(),
        ready_path: "/ready".into(),
        readiness: readiness.clone(),
    }
}

#[tokio::test]
async fn tells_health_as_spire_does() {
    let readiness = Readiness::new();
    let upstream = readiness.component("upstream");
    let served = serve_here(health_pages(&readiness));
    let ok = "HTTP/1.1 200 OK".to_owned();
    let failed = "HTTP/1.1 500 Internal Server Error".to_owned();

    assert_eq!(
        served.get("/live").await,
        (ok.clone(), "{\"upstream\":{}}\n".into())
    );
    let starting = "{\"upstream\":{\"err\":\"starting\"}}\n";
    assert_eq!(
        served.get("/ready").await,
        (failed.clone(), starting.into())
    );
    upstream.ready();
    assert_eq!(served.get("/ready").await.0, ok);
    upstream.not_live("disk is gone");
    assert_eq!(served.get("/live").await.0, failed);
    assert_eq!(served.get("/other").await.0, "HTTP/1.1 404 Not Found");
    let post = "POST /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(served.ask(post).await.0, "HTTP/1.1 405 Method Not Allowed");
}

#[tokio::test]
async fn tells_metrics_at_every_path() {
    let served = serve_here(Pages::Metrics(Metrics::new()));
    for path in ["/", "/metrics"] {
        let (status, body) = served.get(path).await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert_eq!(body, "# EOF\n");
    }
}

#[tokio::test]
async fn refuses_a_head_without_end() {
    let served = serve_here(Pages::Metrics(Metrics::new()));
    let head = format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(MAX_HEADERS + 1));
    let (status, _) = served.ask(&format!("{head}\r\n")).await;
    assert_eq!(status, "HTTP/1.1 431 Request Header Fields Too Large");
}

#[tokio::test]
async fn ends_with_the_process_also_while_a_client_holds_on() {
    let served = serve_here(health_pages(&Readiness::new()));
    let mut silent = TcpStream::connect(served.addr).await.unwrap();
    assert_eq!(served.get("/live").await.0, "HTTP/1.1 200 OK");
    served.trigger.trigger(Reason::Requested("test"));
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    let drained = served.tasks.drain(Duration::from_secs(30)).await;
    assert_eq!(drained, crate::tasks::Drained::InTime);
}
