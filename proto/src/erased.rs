//! What a client's call of one answer does, made once and not once for each pair of messages.
//!
//! The generated clients call [`unary`] where the generator would call tonic. A message is encoded before and decoded
//! after what tonic does with it, so that tonic's part is the same code for all calls.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::body::Body as Sent;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, StdError};
use tonic::{Request, Response, Status};

/// Calls the method at `path`.
///
/// Fails as the call does, and with INTERNAL if the answer is not the message that it should be.
pub(crate) async fn unary<T, Asked, Answer>(
    grpc: &mut Grpc<T>,
    request: Request<Asked>,
    path: PathAndQuery,
) -> Result<Response<Answer>, Status>
where
    T: GrpcService<Sent>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError>,
    Asked: Message,
    Answer: Message + Default,
{
    let request = request.map(|message| Bytes::from(message.encode_to_vec()));
    let (metadata, bytes, extensions) = call(grpc, request, path).await?.into_parts();
    let answer = Answer::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::from_parts(metadata, answer, extensions))
}

async fn call<T>(
    grpc: &mut Grpc<T>,
    request: Request<Bytes>,
    path: PathAndQuery,
) -> Result<Response<Bytes>, Status>
where
    T: GrpcService<Sent>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError>,
{
    grpc.unary(request, path, Encoded).await
}

/// Messages that are encoded already.
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
