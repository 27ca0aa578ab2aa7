//! What the clients of local daemons share: one request on a connection, and a bounded answer.
//!
//! All of them speak over a boxed stream, so that the machinery of HTTP is built once.

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Whatever bytes come and go on.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where requests are sent.
pub(super) type Line = SendRequest<Empty<Bytes>>;

/// What moves the bytes: it must be polled for anything to happen.
pub(super) type Connection = http1::Connection<TokioIo<Box<dyn Stream>>, Empty<Bytes>>;

/// Speaks HTTP on a stream.
pub(super) async fn speak(stream: Box<dyn Stream>) -> hyper::Result<(Line, Connection)> {
    http1::handshake(TokioIo::new(stream)).await
}

/// Why an answer has no whole body.
#[derive(Debug)]
pub(super) enum BodyError {
    TooLarge,
    Interrupted(hyper::Error),
}

/// Reads an answer into this memory. It is refused as soon as it is known to be larger than `max`.
pub(super) async fn body(
    response: Response<Incoming>,
    mut content: Vec<u8>,
    max: usize,
) -> Result<Vec<u8>, BodyError> {
    let announced = response.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > max) {
        return Err(BodyError::TooLarge);
    }
    content.clear();
    content.reserve_exact(announced.unwrap_or_default());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(BodyError::Interrupted)?;
        let data = frame.into_data().unwrap_or_default();
        if content.len() + data.len() > max {
            return Err(BodyError::TooLarge);
        }
        if content.capacity() - content.len() < data.len() {
            // By a quarter, not by doubling: a list is kept, and so is what it does not need.
            content.reserve_exact(data.len().max(content.len() / 4));
        }
        content.extend_from_slice(&data);
    }
    Ok(content)
}
