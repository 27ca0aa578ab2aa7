//! Fetching a bundle from a program behind a Unix socket, which SPIRE's agents tell why they ask.

use std::fmt;
use std::path::Path;

use hyper::Uri;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::UnixStream;

use super::Occasion;
use super::web::{self, Answer, WebError};

/// An `http` URL whose host is only told: the socket is where it leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketUrl(Uri);

/// Why a text is no URL to be asked for over a socket. The words are SPIRE's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SocketUrlError {
    #[error("it is not a URL")]
    Malformed,
    #[error("trust bundle URL must start with http:// when used with trust bundle unix socket")]
    NotHttp,
    #[error("trust_bundle_url query params can not start with {0}")]
    Reserved(&'static str),
}

impl SocketUrl {
    /// Parses `http://host/path?query`, where the query has none of the names that SPIRE's agents add.
    pub fn parse(text: &str) -> Result<Self, SocketUrlError> {
        let uri: Uri = text
            .parse()
            .map_err(|_malformed| SocketUrlError::Malformed)?;
        if uri.scheme_str() != Some("http") {
            return Err(SocketUrlError::NotHttp);
        }
        for parameter in uri.query().unwrap_or_default().split('&') {
            for reserved in ["spiffe-", "spire-"] {
                if parameter.starts_with(reserved) {
                    return Err(SocketUrlError::Reserved(reserved));
                }
            }
        }
        Ok(Self(uri))
    }

    /// The path with the query, and what SPIRE's agents tell in it.
    fn target(&self, occasion: Occasion<'_>) -> String {
        let since = OffsetDateTime::from(occasion.since)
            .replace_nanosecond(0)
            .ok()
            .and_then(|since| since.format(&Rfc3339).ok());
        let mode = if occasion.is_again {
            "rebootstrap"
        } else {
            "bootstrap"
        };
        let told = [
            (
                "spiffe-trust-domain",
                occasion.trust_domain.name().to_owned(),
            ),
            ("spire-attest-mode", mode.to_owned()),
            ("spire-attest-start-time", since.unwrap_or_default()),
            ("spire-connection-attempts", occasion.attempts.to_string()),
            ("spire-server-address", occasion.host.to_owned()),
            ("spire-server-port", occasion.port.to_string()),
        ];
        let own = self.0.query().filter(|query| !query.is_empty());
        let told = told
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)));
        let query: Vec<_> = own.map(str::to_owned).into_iter().chain(told).collect();
        format!("{}?{}", self.0.path(), query.join("&"))
    }
}

impl fmt::Display for SocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fetches a document of at most `limit` bytes. A redirect is not followed: it would lead away from the
/// socket, or nowhere.
pub(super) async fn fetch(
    socket: &Path,
    url: &SocketUrl,
    occasion: Occasion<'_>,
    limit: usize,
) -> Result<Vec<u8>, WebError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| WebError::Connect {
        host: socket.display().to_string(),
        source,
    })?;
    let authority = url.0.authority().map_or("", |authority| authority.as_str());
    match web::exchange(stream, authority, &url.target(occasion), limit).await? {
        Answer::Document(document) => Ok(document),
        Answer::Redirect(_) => Err(WebError::Redirects),
    }
}

/// RFC 3986 2.1 and 2.3.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use identity::trust_domain::TrustDomain;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    fn occasion(trust_domain: &TrustDomain) -> Occasion<'_> {
        Occasion {
            trust_domain,
            host: "::1",
            port: 8081,
            is_again: true,
            attempts: 3,
            since: SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 5),
        }
    }

    /// Asks a program that gives this answer, and tells what it was asked.
    async fn asked(url: &str, answer: &str) -> (String, Result<Vec<u8>, WebError>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let url = SocketUrl::parse(url).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            request.truncate(length);
            String::from_utf8(request).unwrap()
        };
        let fetch = fetch(&socket, &url, occasion(&trust_domain), 100);
        tokio::join!(serve, fetch)
    }

    #[tokio::test]
    async fn the_program_is_told_what_spires_agents_tell() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\na bundle";
        let (request, fetched) = asked("http://here/bundle?x=1", answer).await;
        assert_eq!(fetched.unwrap(), b"a bundle");
        let line = request.lines().next().unwrap();
        assert_eq!(
            line,
            "GET /bundle?x=1&spiffe-trust-domain=example.org&spire-attest-mode=rebootstrap\
             &spire-attest-start-time=2027-01-15T08%3A00%3A00Z&spire-connection-attempts=3\
             &spire-server-address=%3A%3A1&spire-server-port=8081 HTTP/1.1"
        );
        assert!(request.contains("host: here"), "{request}");
    }

    #[tokio::test]
    async fn a_redirect_and_a_document_without_end_are_refused() {
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://other/\r\ncontent-length: 0\r\n\r\n";
        let (_, fetched) = asked("http://here", moved).await;
        assert_eq!(fetched.unwrap_err().reason(), "web_redirect");
        let long = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n{}",
            "x".repeat(101)
        );
        let (_, fetched) = asked("http://here", &long).await;
        assert_eq!(fetched.unwrap_err().reason(), "web_body");
    }

    #[test]
    fn only_http_without_the_names_that_are_added_is_taken() {
        for (url, error) in [
            ("https://here/", SocketUrlError::NotHttp),
            ("/bundle", SocketUrlError::NotHttp),
            ("http://he re/", SocketUrlError::Malformed),
            (
                "http://here/?spiffe-x=1",
                SocketUrlError::Reserved("spiffe-"),
            ),
            (
                "http://here/?a=1&spire-x=1",
                SocketUrlError::Reserved("spire-"),
            ),
        ] {
            assert_eq!(SocketUrl::parse(url).unwrap_err(), error, "{url}");
        }
    }
}
