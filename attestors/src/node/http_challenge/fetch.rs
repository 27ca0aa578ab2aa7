//! One GET, of a few bytes, to an address that was looked at.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::lookup::Lookups;
use super::messages::Payload;
use super::network::{Network, may_go};

/// For everything: looking up the name, connecting, and the answer. SPIRE's server takes as long.
const TIME: Duration = Duration::from_secs(10);
/// A nonce has 44 bytes, and a line end. No more is read than this and a byte.
const MAX_BODY_BYTES: usize = 64;
/// The most bytes of an answer's head that are held.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Fetches what the agent serves.
pub(super) async fn fetch(
    target: &Payload,
    allowed: &[Network],
    lookups: &Lookups,
) -> Result<Vec<u8>, FetchError> {
    let fetched = tokio::time::timeout(TIME, fetch_in_time(target, allowed, lookups));
    fetched.await.unwrap_or(Err(FetchError::TooSlow))
}

async fn fetch_in_time(
    target: &Payload,
    allowed: &[Network],
    lookups: &Lookups,
) -> Result<Vec<u8>, FetchError> {
    let addrs = lookups.addrs(&target.hostname, target.port).await?;
    let addr = choose(addrs.into_iter(), allowed)?;
    // The address that was looked at, and not the name: it could lead elsewhere by now.
    let stream = TcpStream::connect(addr)
        .await
        .map_err(FetchError::Connect)?;
    let (mut line, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let asked = async {
        let answer = line.send_request(request(target)?).await;
        let answer = answer.map_err(FetchError::Http)?;
        // A redirect leads to where nobody has looked.
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        body(answer.into_body()).await
    };
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        // What the connection had of an answer is there after its end too.
        _ended = connection => asked.await,
    }
}

/// One of the addresses of a name. All of them must be where the server may go: a name with one that is
/// not is no honest one.
fn choose(
    addrs: impl Iterator<Item = SocketAddr>,
    allowed: &[Network],
) -> Result<SocketAddr, FetchError> {
    let mut chosen = None;
    for addr in addrs {
        if !may_go(addr.ip(), allowed) {
            return Err(FetchError::Internal);
        }
        chosen.get_or_insert(addr);
    }
    chosen.ok_or(FetchError::NoAddress)
}

fn request(target: &Payload) -> Result<Request<Empty<Bytes>>, FetchError> {
    let host = match target.port {
        80 => target.hostname.as_str().to_owned(),
        port => format!("{}:{port}", target.hostname.as_str()),
    };
    Request::get(super::path(&target.agent))
        .header(HOST, host)
        .header(USER_AGENT, "signet")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(FetchError::Request)
}

/// Reads a body. It is refused as soon as it is known to be too large.
async fn body(mut body: hyper::body::Incoming) -> Result<Vec<u8>, FetchError> {
    let mut content = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(FetchError::Http)?.into_data();
        let data = data.unwrap_or_default();
        if content.len() + data.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge);
        }
        content.extend_from_slice(&data);
    }
    Ok(content)
}

/// Why nothing was fetched. It is for the log: an agent is not told.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Too many names are being looked up.
    #[error("too many names are being looked up")]
    Busy,
    /// The name leads nowhere.
    #[error("the hostname could not be looked up")]
    LookUp(#[source] std::io::Error),
    /// The name has no address.
    #[error("the hostname has no address")]
    NoAddress,
    /// The name leads to where a server does not go.
    #[error(
        "the hostname leads to an internal address, which the server's operator did not allow (`signet.http_challenge_networks`)"
    )]
    Internal,
    /// Nobody answers there.
    #[error("could not connect to the agent")]
    Connect(#[source] std::io::Error),
    /// The request could not be made.
    #[error("could not ask the agent")]
    Request(#[source] http::Error),
    /// What answers does not speak HTTP, or not to its end.
    #[error("the agent did not answer as HTTP has it")]
    Http(#[source] hyper::Error),
    /// The answer is another one than 200, a redirect among them.
    #[error("the agent answered with status {0}")]
    Status(u16),
    /// There is more than a nonce.
    #[error("the agent answered with more than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// It took too long.
    #[error("the agent did not answer in time")]
    TooSlow,
}

impl FetchError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::LookUp(_) => "hostname_not_found",
            Self::NoAddress => "hostname_without_address",
            Self::Internal => "address_internal",
            Self::Connect(_) => "agent_unreachable",
            Self::Request(_) => "request",
            Self::Http(_) => "http",
            Self::Status(_) => "http_status",
            Self::TooLarge => "body_too_large",
            Self::TooSlow => "agent_too_slow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adv_a_name_of_several_addresses_is_as_good_as_the_worst_of_them() {
        let addrs = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let good = addrs(&["1.1.1.1:80", "[2606:4700::1111]:80"]);
        assert_eq!(
            choose(good.into_iter(), &[]).unwrap(),
            addrs(&["1.1.1.1:80"])[0]
        );
        for bad in [
            &["1.1.1.1:80", "127.0.0.1:80"][..],
            &["10.0.0.1:80", "1.1.1.1:80"],
            &["[::ffff:169.254.169.254]:80"],
        ] {
            let refused = choose(addrs(bad).into_iter(), &[]);
            assert_eq!(refused.unwrap_err().reason(), "address_internal", "{bad:?}");
        }
        let none = choose(std::iter::empty(), &[]);
        assert_eq!(none.unwrap_err().reason(), "hostname_without_address");
    }
}
