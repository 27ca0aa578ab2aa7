//! What both dialects of secret discovery share.
//!
//! A stream is a pure machine: requests and updates come in, responses and remarks go out. The driver
//! moves bytes. `world` answers with all that was asked for, `delta` with what has changed.

use std::sync::Arc;

use bytes::Bytes;

use super::node::NodeTraits;
use super::resources::{Catalog, Resource, SECRET_TYPE};
use crate::metrics::Method;
use crate::options::SdsOptions;
use crate::source::Update;
use crate::status::Refusal;

/// Nobody has a name of a type as long as this.
const MAX_TYPE_URL: usize = 256;

/// Of what an Envoy says of a rejection, so much is kept.
const MAX_ERROR: usize = 256;

/// One way to ask for secrets.
pub(crate) trait Dialect: Sized + Send + 'static {
    const METHOD: Method;
    /// A request on the wire.
    type Message: prost::Message + Default + 'static;
    /// A request that was read.
    type Request: TryFrom<Self::Message, Error = Refusal>;

    /// A stream that was just opened.
    fn open(desk: Desk) -> Self;

    /// Takes what has happened; an error ends the stream. At most one response comes of it.
    fn apply(&mut self, event: Event<Self::Request>) -> Result<Vec<Action>, Refusal>;

    /// Writes a response.
    fn encode(response: &Response) -> Bytes;
}

/// What happens to a stream.
#[derive(Clone, Debug)]
pub(crate) enum Event<R> {
    Requested(R),
    Updated(Arc<Update>),
}

/// What the driver does about it.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Send(Response),
    Remark(Remark),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) type_url: Arc<str>,
    pub(crate) resources: Vec<Resource>,
    /// The names of what there is no more, or never was. The state of the world has no place for it.
    pub(crate) removed: Vec<String>,
}

/// Something for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Remark {
    /// The request answers an older response, and another one to the newer is on its way.
    StaleNonce,
    /// The response was rejected. It is not sent again before something changes.
    Rejected {
        error: String,
        /// How many rejections there were since the last acknowledgement.
        times: u32,
    },
    /// These names stand for nothing now; none of them, if all have appeared.
    Pending { names: Vec<String> },
}

/// What a stream knows, however it is asked.
#[derive(Debug)]
pub(crate) struct Desk {
    options: Arc<SdsOptions>,
    node: NodeTraits,
    type_url: Arc<str>,
    update: Option<Arc<Update>>,
    updates: u64,
    next_nonce: u32,
    rejections: u32,
}

impl Desk {
    /// Nonces count up from an arbitrary one, so that a nonce of an earlier stream is not taken for
    /// one of this.
    pub(crate) fn new(options: Arc<SdsOptions>, first_nonce: u32) -> Self {
        Self {
            options,
            node: NodeTraits::default(),
            type_url: Arc::from(SECRET_TYPE),
            update: None,
            updates: 0,
            next_nonce: first_nonce,
            rejections: 0,
        }
    }

    /// Remembers who asks, and for what. An Envoy may tell its node in its first request alone.
    pub(crate) fn greet(
        &mut self,
        node: Option<NodeTraits>,
        type_url: &str,
    ) -> Result<(), Refusal> {
        if type_url.len() > MAX_TYPE_URL {
            return Err(Refusal::UnknownType);
        }
        if type_url != &*self.type_url {
            self.type_url = Arc::from(type_url);
        }
        self.node = node.unwrap_or(self.node);
        Ok(())
    }

    pub(crate) fn node(&self) -> NodeTraits {
        self.node
    }

    pub(crate) fn updated(&mut self, update: Arc<Update>) {
        self.updates += 1;
        self.update = Some(update);
    }

    /// What there is; `None` before the first update.
    pub(crate) fn catalog(&self) -> Option<Catalog<'_>> {
        Some(Catalog {
            update: self.update.as_deref()?,
            options: &self.options,
            validator: (self.node).validator(self.options.disable_spiffe_cert_validation),
        })
    }

    /// The answer to `error`, if the Envoy has one, and to none otherwise.
    pub(crate) fn judged(&mut self, error: Option<String>) -> Option<Remark> {
        let Some(mut error) = error else {
            self.rejections = 0;
            return None;
        };
        let end = error.floor_char_boundary(MAX_ERROR);
        error.truncate(end);
        self.rejections = self.rejections.saturating_add(1);
        Some(Remark::Rejected {
            error,
            times: self.rejections,
        })
    }

    /// A response with a new nonce.
    pub(crate) fn response(&mut self, resources: Vec<Resource>, removed: Vec<String>) -> Response {
        let nonce = format!("{:08x}", self.next_nonce);
        self.next_nonce = self.next_nonce.wrapping_add(1);
        Response {
            version: self.updates.to_string(),
            nonce,
            type_url: Arc::clone(&self.type_url),
            resources,
            removed,
        }
    }
}
