//! A bundle from the web: over HTTPS alone, and never without end.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A web server that gives each of its answers once, in turn.
struct Web {
    roots: RootCertStore,
    port: u16,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test ends the task when it drops the server"
)]
async fn web(answers: Vec<String>) -> Web {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let leaf = leaf
        .signed_by(&key, &Issuer::from_params(&params, &ca_key))
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        for answer in answers {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                return;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(answer.replace("PORT", &port.to_string()).as_bytes())
                .await;
            let _ = stream.shutdown().await;
        }
    });
    Web {
        roots,
        port,
        serving,
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn moved(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

async fn fetched(answers: Vec<String>) -> Result<Vec<u8>, WebError> {
    let web = web(answers).await;
    let url = Url::parse(&format!("https://localhost:{}/bundle", web.port)).unwrap();
    fetch(&url, web.roots.clone(), 100).await
}

#[tokio::test]
async fn fetches_a_document() {
    assert_eq!(fetched(vec![ok("a bundle")]).await.unwrap(), b"a bundle");
}

#[tokio::test]
async fn follows_redirects_under_https_only() {
    let answers = vec![
        moved("/other"),
        moved("https://localhost:PORT/third"),
        ok("a bundle"),
    ];
    assert_eq!(fetched(answers).await.unwrap(), b"a bundle");
    let error = fetched(vec![moved("http://localhost:PORT/")])
        .await
        .unwrap_err();
    assert!(
        matches!(error, WebError::Redirect(UrlError::NotHttps)),
        "{error:?}"
    );
    let error = fetched(vec![moved("/"), moved("/"), moved("/"), moved("/")])
        .await
        .unwrap_err();
    assert!(matches!(error, WebError::Redirects), "{error:?}");
}

#[tokio::test]
async fn an_answer_above_the_limit_is_refused() {
    let error = fetched(vec![ok(&"a".repeat(101))]).await.unwrap_err();
    assert_eq!(error.reason(), "web_body");
}

#[tokio::test]
async fn an_error_of_the_server_is_tried_again_and_a_missing_page_is_not() {
    let error = fetched(vec![
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ])
    .await
    .unwrap_err();
    assert!(error.is_transient(), "{error}");
    let error = fetched(vec![
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ])
    .await
    .unwrap_err();
    assert!(!error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_refused() {
    let web = web(vec![ok("a bundle")]).await;
    let url = Url::parse(&format!("https://localhost:{}/bundle", web.port)).unwrap();
    let error = fetch(&url, public_roots(), 100).await.unwrap_err();
    assert_eq!(error.reason(), "web_connect");
}

#[test]
fn only_https_urls_are_taken() {
    assert!(Url::parse("https://example.org/bundle?x=1").is_ok());
    for (text, error) in [
        ("http://example.org/bundle", UrlError::NotHttps),
        ("/bundle", UrlError::NotHttps),
        ("", UrlError::Malformed),
        ("https://user@example.org/", UrlError::Credentials),
    ] {
        assert_eq!(Url::parse(text), Err(error), "{text}");
    }
}
