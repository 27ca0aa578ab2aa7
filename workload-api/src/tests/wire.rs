//! The bytes of every answer, read by the field numbers of the standard's proto and not by ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::uri::PathAndQuery;
use prost::Message;
use prost_types::Struct;
use runtime::clock::Clock;
use serde_json::json;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::client::channel;
use crate::source::Bundles;
use crate::testing::{Pki, Served};

/// Bytes that pass through a client as they are.
#[derive(Clone, Debug, Default, PartialEq)]
struct Raw(Vec<u8>);

mod codec {
    use bytes::{Buf, BufMut};
    use tonic::Status;
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

    use super::Raw;

    /// Neither encodes nor decodes.
    pub(super) struct AsIs;

    impl Codec for AsIs {
        type Encode = Raw;
        type Decode = Raw;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            Self
        }

        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for AsIs {
        type Item = Raw;
        type Error = Status;

        fn encode(&mut self, item: Raw, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
            dst.put(item.0.as_slice());
            Ok(())
        }
    }

    impl Decoder for AsIs {
        type Item = Raw;
        type Error = Status;

        fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Raw>, Status> {
            Ok(Some(Raw(src.copy_to_bytes(src.remaining()).to_vec())))
        }
    }
}

macro_rules! messages {
    ($($name:ident { $($field:ident: $type:ty = ($($tag:tt)+)),+ $(,)? })+) => {
        $(#[derive(Clone, PartialEq, prost::Message)]
        struct $name { $(#[prost($($tag)+)] $field: $type),+ })+
    };
}

messages! {
    X509Svids {
        svids: Vec<X509Svid> = (message, repeated, tag = "1"),
        crl: Vec<Vec<u8>> = (bytes = "vec", repeated, tag = "2"),
        federated_bundles: BTreeMap<String, Vec<u8>> = (btree_map = "string, bytes", tag = "3"),
    }
    X509Svid {
        spiffe_id: String = (string, tag = "1"),
        x509_svid: Vec<u8> = (bytes = "vec", tag = "2"),
        x509_svid_key: Vec<u8> = (bytes = "vec", tag = "3"),
        bundle: Vec<u8> = (bytes = "vec", tag = "4"),
        hint: String = (string, tag = "5"),
    }
    X509Bundles {
        crl: Vec<Vec<u8>> = (bytes = "vec", repeated, tag = "1"),
        bundles: BTreeMap<String, Vec<u8>> = (btree_map = "string, bytes", tag = "2"),
    }
    JwtRequest {
        audience: Vec<String> = (string, repeated, tag = "1"),
        spiffe_id: String = (string, tag = "2"),
    }
    JwtSvids {
        svids: Vec<JwtSvid> = (message, repeated, tag = "1"),
    }
    JwtSvid {
        spiffe_id: String = (string, tag = "1"),
        svid: String = (string, tag = "2"),
        hint: String = (string, tag = "3"),
    }
    JwtBundles {
        bundles: BTreeMap<String, Vec<u8>> = (btree_map = "string, bytes", tag = "1"),
    }
    ValidateRequest {
        audience: String = (string, tag = "1"),
        svid: String = (string, tag = "2"),
    }
    Validated {
        spiffe_id: String = (string, tag = "1"),
        claims: Option<Struct> = (message, optional, tag = "2"),
    }
}

/// Asks, and reads the first message. A field that the standard does not know would be lost on the
/// way back into bytes.
async fn ask<M: Message + Default>(served: &Served, method: &str, request: &impl Message) -> M {
    let mut grpc = tonic::client::Grpc::new(channel(&served.endpoint).await.unwrap());
    grpc.ready().await.unwrap();
    let mut request = Request::new(Raw(request.encode_to_vec()));
    let header = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", header);
    let path = PathAndQuery::try_from(format!("/SpiffeWorkloadAPI/{method}")).unwrap();
    let answer = grpc.server_streaming(request, path, codec::AsIs).await;
    let bytes = answer
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .0;
    let message = M::decode(bytes.as_slice()).unwrap();
    assert_eq!(message.encode_to_vec(), bytes, "{method}");
    message
}

/// A socket whose callers have one identity, and see a foreign bundle.
fn served(foreign: &Pki) -> Served {
    let served = Served::start();
    let federated = BTreeMap::from([(foreign.trust_domain.clone(), Arc::clone(&foreign.bundle))]);
    served
        .source
        .set_bundles(Bundles::new(Arc::clone(&served.pki.bundle), federated));
    served
}

const OWN: &str = "spiffe://example.org";
const FOREIGN: &str = "spiffe://foreign.test";

#[tokio::test]
async fn x509_svids_have_the_field_numbers_of_the_standard() {
    let foreign = Pki::new("foreign.test");
    let served = served(&foreign);
    let pki = &served.pki;
    let identity = pki.identity("a", "/only", "internal", 1);
    served.source.publish(vec![Arc::clone(&identity)]);
    let expected = X509Svids {
        svids: vec![X509Svid {
            spiffe_id: pki.id("/only"),
            x509_svid: identity.svid.leaf().der().to_vec(),
            x509_svid_key: identity.svid.key().pkcs8_der().to_vec(),
            bundle: pki.bundle.x509_der(),
            hint: "internal".to_owned(),
        }],
        crl: Vec::new(),
        federated_bundles: [(FOREIGN.to_owned(), foreign.bundle.x509_der())].into(),
    };
    assert_eq!(
        ask::<X509Svids>(&served, "FetchX509SVID", &()).await,
        expected
    );
}

#[tokio::test]
async fn bundles_have_the_field_numbers_of_the_standard() {
    let foreign = Pki::new("foreign.test");
    let served = served(&foreign);
    let own = Arc::clone(&served.pki.bundle);
    served
        .source
        .publish(vec![served.pki.identity("a", "/only", "", 1)]);
    let x509 = X509Bundles {
        crl: Vec::new(),
        bundles: [
            (OWN.to_owned(), own.x509_der()),
            (FOREIGN.to_owned(), foreign.bundle.x509_der()),
        ]
        .into(),
    };
    assert_eq!(
        ask::<X509Bundles>(&served, "FetchX509Bundles", &()).await,
        x509
    );
    let jwt = JwtBundles {
        bundles: [
            (OWN.to_owned(), own.jwks_json().into_bytes()),
            (FOREIGN.to_owned(), foreign.bundle.jwks_json().into_bytes()),
        ]
        .into(),
    };
    assert_eq!(
        ask::<JwtBundles>(&served, "FetchJWTBundles", &()).await,
        jwt
    );
}

#[tokio::test]
async fn jwt_svids_have_the_field_numbers_of_the_standard() {
    let served = served(&Pki::new("foreign.test"));
    let grant = served.pki.grant("a", "/only", "internal", "aud");
    let token = grant.svid.token().to_owned();
    served.source.grant(vec![grant]);
    let request = JwtRequest {
        audience: vec!["aud".to_owned()],
        spiffe_id: served.pki.id("/only"),
    };
    let expected = JwtSvids {
        svids: vec![JwtSvid {
            spiffe_id: served.pki.id("/only"),
            svid: token,
            hint: "internal".to_owned(),
        }],
    };
    assert_eq!(
        ask::<JwtSvids>(&served, "FetchJWTSVID", &request).await,
        expected
    );
}

#[tokio::test]
async fn a_validated_token_has_the_field_numbers_of_the_standard() {
    let served = served(&Pki::new("foreign.test"));
    let now = Clock::system().now();
    let request = ValidateRequest {
        audience: "aud".to_owned(),
        svid: served.pki.token("/only", &json!("aud"), now, &json!({})),
    };
    let answer = ask::<Validated>(&served, "ValidateJWTSVID", &request).await;
    assert_eq!(answer.spiffe_id, served.pki.id("/only"));
    assert_eq!(answer.claims.unwrap().fields.len(), 4);
}
