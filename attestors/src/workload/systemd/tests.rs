//! The attestor against a bus that behaves badly. The judge of the good case is Debian's `dbus-daemon`.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use super::bus::receive;
use super::message::{Fields, Kind, Message};
use super::*;

/// How the bus behaves once the caller is let in.
#[derive(Clone, Copy, Debug)]
enum Bad {
    Hangs,
    Refuses,
    Breaks,
    SendsGarbage,
    SendsTooMuch,
    SendsNews,
    LetsSomebodyElseAnswer,
    AnswersAnotherType,
}

async fn serve(mut stream: UnixStream, bad: Bad) -> Option<()> {
    if matches!(bad, Bad::Refuses) {
        let answer = b"REJECTED EXTERNAL\r\n";
        return stream.write_all(answer).await.ok();
    }
    fake::let_in(&mut stream).await.ok()?;
    loop {
        let call = receive(&mut stream).await.ok()?;
        let reply = |sender: &str, body| Message {
            kind: Kind::Return,
            serial: 1,
            fields: Fields {
                reply_serial: Some(call.serial),
                sender: Some(sender.to_owned()),
                ..Fields::default()
            },
            body,
        };
        let bus = "org.freedesktop.DBus";
        let answers = match (call.fields.member.as_deref()?, bad) {
            ("Hello", _) => reply(bus, Body::strings(&[":1.9"])).encode(),
            (_, Bad::Hangs) => std::future::pending().await,
            (_, Bad::Breaks) => reply(bus, Body::strings(&["x"])).encode()[..20].to_vec(),
            (_, Bad::SendsGarbage) => b"garbage, and not even short".to_vec(),
            (_, Bad::SendsTooMuch) => b"l\x02\0\x01\xff\xff\xff\x7f\x01\0\0\0\0\0\0\0".to_vec(),
            (_, Bad::SendsNews) => {
                let mut news = reply(bus, Body::default());
                news.kind = Kind::Signal;
                news.encode().repeat(100)
            }
            (_, Bad::LetsSomebodyElseAnswer) => reply(":1.66", Body::strings(&[":1.66"]))
                .encode()
                .repeat(100),
            (_, Bad::AnswersAnotherType) => reply(bus, Body::number("u", 7)).encode(),
            (_, Bad::Refuses) => return None,
        };
        stream.write_all(&answers).await.ok()?;
        if matches!(bad, Bad::Breaks) {
            return None;
        }
    }
}

fn bus(bad: Bad) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream, bad).await;
        }
    });
    (folder, path)
}

fn sleeper() -> (Child, Arc<Peer>) {
    let mut command = Command::new("sleep");
    let child = command.arg("1000").stdout(Stdio::null()).spawn().unwrap();
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let peer = Peer::for_test(child.id(), uid.as_raw(), gid.as_raw()).unwrap();
    (child, Arc::new(peer))
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn refusal(bus: PathBuf, limit: Duration) -> &'static str {
    let (child, peer) = sleeper();
    let systemd = Systemd::new(Options {
        bus,
        timeout: limit,
    });
    let reason = systemd.attest(&peer).await.unwrap_err().reason();
    end(child);
    reason
}

#[tokio::test]
async fn every_failure_of_the_bus_has_its_reason() {
    for (bad, reason) in [
        (Bad::Refuses, "bus_not_authenticated"),
        (Bad::Breaks, "bus_broken_off"),
        (Bad::SendsGarbage, "bus_garbage"),
        (Bad::SendsTooMuch, "bus_garbage"),
        (Bad::SendsNews, "bus_no_answer"),
        (Bad::LetsSomebodyElseAnswer, "bus_no_answer"),
        (Bad::AnswersAnotherType, "bus_garbage"),
    ] {
        let (_folder, path) = bus(bad);
        let found = refusal(path, Duration::from_secs(30)).await;
        assert_eq!(found, reason, "{bad:?}");
    }
    let (_folder, path) = bus(Bad::Hangs);
    let found = refusal(path.clone(), Duration::from_millis(50)).await;
    assert_eq!(found, "systemd_timeout");
    let found = refusal(path.with_extension("gone"), Duration::from_secs(30)).await;
    assert_eq!(found, "bus_unreachable");
}

#[tokio::test]
async fn a_caller_that_exits_while_systemd_is_asked_is_denied() {
    let (_folder, path) = bus(Bad::Hangs);
    let (child, peer) = sleeper();
    let systemd = Systemd::new(Options {
        bus: path,
        timeout: Duration::from_secs(30),
    });
    let asking = systemd.attest(&peer);
    let ending = async { end(child) };
    let (verdict, ()) = tokio::join!(asking, ending);
    assert_eq!(verdict.unwrap(), Verdict::Denied(Denial::Exited));
}

#[test]
fn only_the_path_of_an_object_is_a_unit() {
    for path in ["/org/freedesktop/systemd1/unit/a_2eservice", "/"] {
        assert_eq!(
            unit(Ok(Body::unit(path, None))).unwrap().as_deref(),
            Some(path)
        );
    }
    for body in [
        Body::unit("relative", None),
        Body::unit("/a b", None),
        Body::unit("", None),
        Body::strings(&["/a"]),
        Body::number("u", 1),
    ] {
        assert_eq!(unit(Ok(body)).unwrap_err().reason(), "systemd_not_a_unit");
    }
    assert!(unit(Err(NO_UNIT.to_owned())).unwrap().is_none());
    let error = unit(Err("org.freedesktop.DBus.Error.AccessDenied".to_owned()));
    assert_eq!(error.unwrap_err().reason(), "bus_refused");
}
