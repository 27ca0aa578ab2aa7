//! The codec of the Workload API: it reads requests by prost, and writes responses that are encoded
//! already.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// No buffer before the first message: it would be held for the whole life of an idle stream.
const NO_BUFFER: usize = 0;
const YIELD_THRESHOLD: usize = 32 * 1024;

/// Decodes `R`, and passes encoded responses through.
#[derive(Debug)]
pub(crate) struct Encoded<R>(PhantomData<R>);

impl<R> Encoded<R> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<R: Message + Default + 'static> Codec for Encoded<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = PassThrough;
    type Decoder = Requests<R>;

    fn encoder(&mut self) -> Self::Encoder {
        PassThrough
    }

    fn decoder(&mut self) -> Self::Decoder {
        Requests(PhantomData)
    }
}

/// Writes what was encoded before.
#[derive(Debug)]
pub(crate) struct PassThrough;

impl Encoder for PassThrough {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(NO_BUFFER, YIELD_THRESHOLD)
    }
}

/// Reads requests.
#[derive(Debug)]
pub(crate) struct Requests<R>(PhantomData<R>);

impl<R: Message + Default> Decoder for Requests<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(src).map(Some).map_err(|error| {
            tracing::debug!(%error, "Refused a request that is no message");
            Status::invalid_argument("the request is not a valid message")
        })
    }
}
