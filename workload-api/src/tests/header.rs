//! Workload Endpoint 3 and 6: the security header, and what is refused before anybody is attested.

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};

use crate::client::Endpoint;
use crate::codec::Encoded;
use crate::testing::Served;

/// The seven methods, and what they answer a caller that has no identity.
const METHODS: [(&str, Code); 7] = [
    ("FetchX509SVID", Code::PermissionDenied),
    ("FetchX509Bundles", Code::PermissionDenied),
    ("FetchJWTSVID", Code::InvalidArgument),
    ("FetchJWTBundles", Code::PermissionDenied),
    ("ValidateJWTSVID", Code::InvalidArgument),
    ("FetchWITSVID", Code::Unimplemented),
    ("FetchWITBundles", Code::Unimplemented),
];

/// Calls a method with an empty message (any will do: all fields have defaults) and these headers.
async fn call(endpoint: &Endpoint, path: &str, headers: &[&str], message: Bytes) -> Status {
    let mut grpc = tonic::client::Grpc::new(crate::client::channel(endpoint).await.unwrap());
    grpc.ready().await.unwrap();
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata(headers);
    let path = PathAndQuery::try_from(path).unwrap();
    let answer = grpc
        .server_streaming(request, path, Encoded::<()>::new())
        .await;
    match answer {
        Ok(answer) => answer.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    }
}

fn metadata(headers: &[&str]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for value in headers {
        let value = AsciiMetadataValue::try_from(*value).unwrap();
        metadata.append("workload.spiffe.io", value);
    }
    metadata
}

#[tokio::test]
async fn only_exactly_one_true_passes_and_nobody_else_is_attested() {
    let served = Served::start();
    let variants: [&[&str]; 10] = [
        &[],
        &["True"],
        &["TRUE"],
        &["1"],
        &["false"],
        &[""],
        &["true, true"],
        &["true", "true"],
        &["true", "false"],
        &["yes"],
    ];
    for (method, _) in METHODS {
        for headers in variants {
            let path = format!("/SpiffeWorkloadAPI/{method}");
            let status = call(&served.endpoint, &path, headers, Bytes::new()).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{method} {headers:?}");
            assert_eq!(status.message(), "security header missing from request");
        }
    }
    assert_eq!(served.source.attestations(), 0);
}

#[tokio::test]
async fn with_the_header_every_method_gets_its_own_answer() {
    let served = Served::start();
    served.source.publish(vec![]);
    for (method, code) in METHODS {
        let path = format!("/SpiffeWorkloadAPI/{method}");
        let status = call(&served.endpoint, &path, &["true"], Bytes::new()).await;
        assert_eq!(status.code(), code, "{method}: {status:?}");
    }
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let served = Served::start();
    for path in [
        "/SpiffeWorkloadAPI/Nope",
        "/SpiffeWorkloadAPI/Fetch/X",
        "/Nope/Nope",
    ] {
        let status = call(&served.endpoint, path, &["true"], Bytes::new()).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn a_request_above_64_kib_is_refused() {
    let served = Served::start();
    let large = Bytes::from(vec![0; 64 * 1024 + 1]);
    let path = "/SpiffeWorkloadAPI/FetchX509SVID";
    let status = call(&served.endpoint, path, &["true"], large).await;
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(served.source.attestations(), 0);
}

#[tokio::test]
async fn a_request_that_is_no_message_is_refused() {
    let served = Served::start();
    let path = "/SpiffeWorkloadAPI/FetchX509SVID";
    let garbage = Bytes::from_static(b"\xff\xff\xff");
    let status = call(&served.endpoint, path, &["true"], garbage).await;
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_compressed_request_is_refused() {
    let served = Served::start();
    let mut grpc =
        tonic::client::Grpc::new(crate::client::channel(&served.endpoint).await.unwrap());
    grpc.ready().await.unwrap();
    let mut request = Request::new(Bytes::new());
    *request.metadata_mut() = metadata(&["true"]);
    let gzip = AsciiMetadataValue::from_static("gzip");
    request.metadata_mut().insert("grpc-encoding", gzip);
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
    let answer = grpc
        .server_streaming(request, path, Encoded::<()>::new())
        .await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(served.source.attestations(), 0);
}
