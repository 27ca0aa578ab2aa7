//! One stream of secrets, as a state machine.
//!
//! Pure: requests and updates come in, responses and remarks go out. The driver moves bytes.
//!
//! A name that stands for nothing does not end the stream, as it does in SPIRE: it is left pending,
//! the others are answered, and it is answered when it appears. A response is never empty, because
//! Envoy rejects an empty one; so a withdrawn secret is simply not renewed.

use std::sync::Arc;

use super::node::NodeTraits;
use super::resources::{self, Names, Resource};
use crate::options::SdsOptions;
use crate::source::Update;

/// What an Envoy asks for, or says about the last response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) names: Names,
    pub(crate) type_url: String,
    pub(crate) version: String,
    pub(crate) nonce: String,
    /// Told in the first request; later ones may leave it out.
    pub(crate) node: Option<NodeTraits>,
    /// Why the last response was rejected.
    pub(crate) error: Option<String>,
}

/// What happens to a stream.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Requested(Request),
    Updated(Arc<Update>),
}

/// What the driver does about it.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Send(Response),
    Remark(Remark),
}

/// The whole requested set, never a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) type_url: String,
    pub(crate) resources: Vec<Resource>,
}

/// Something for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Remark {
    /// The request answers an older response, and another one to the newer is on its way.
    StaleNonce,
    /// The response was rejected. It is not sent again before something changes.
    Rejected { error: Option<String> },
    /// These names stand for nothing now; none of them, if all have appeared.
    Pending { names: Vec<String> },
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Machine {
    options: Arc<SdsOptions>,
    version: u64,
    next_nonce: u32,
    node: NodeTraits,
    asked: Option<Asked>,
    update: Option<Arc<Update>>,
    pending: Vec<String>,
    sent: Option<Sent>,
}

#[derive(Debug)]
struct Asked {
    names: Names,
    type_url: String,
}

#[derive(Debug)]
struct Sent {
    version: String,
    nonce: String,
    resources: Vec<Resource>,
}

impl Machine {
    /// A stream that was just opened. Nonces count up from an arbitrary one, so that a nonce of an
    /// earlier stream is not taken for one of this.
    pub(crate) fn new(options: Arc<SdsOptions>, first_nonce: u32) -> Self {
        Self {
            options,
            version: 0,
            next_nonce: first_nonce,
            node: NodeTraits::default(),
            asked: None,
            update: None,
            pending: Vec::new(),
            sent: None,
        }
    }

    pub(crate) fn apply(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Requested(request) => self.requested(request),
            Event::Updated(update) => self.updated(update),
        }
    }

    fn requested(&mut self, request: Request) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(sent) = &self.sent {
            // After the first response every request answers one, and only the newest counts.
            if request.nonce != sent.nonce {
                return vec![Action::Remark(Remark::StaleNonce)];
            }
            if request.version != sent.version || request.error.is_some() {
                actions.push(Action::Remark(Remark::Rejected {
                    error: request.error,
                }));
            }
        }
        let node = request.node.unwrap_or(self.node);
        let changed = node != self.node
            || self
                .asked
                .as_ref()
                .is_none_or(|asked| asked.names != request.names);
        self.node = node;
        self.asked = Some(Asked {
            names: request.names,
            type_url: request.type_url,
        });
        // Neither an acknowledgement nor a rejection is a reason to send the same again.
        if changed {
            self.answer(Repeat::Yes, &mut actions);
        }
        actions
    }

    fn updated(&mut self, update: Arc<Update>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.version += 1;
        self.update = Some(update);
        self.answer(Repeat::No, &mut actions);
        actions
    }

    /// Answers the last request with the last update, as soon as there are both.
    fn answer(&mut self, repeat: Repeat, actions: &mut Vec<Action>) {
        let (Some(asked), Some(update)) = (&self.asked, &self.update) else {
            return;
        };
        let validator = self
            .node
            .validator(self.options.disable_spiffe_cert_validation);
        let found = resources::find(&asked.names, update, &self.options, validator);
        if found.pending != self.pending {
            self.pending.clone_from(&found.pending);
            actions.push(Action::Remark(Remark::Pending {
                names: found.pending,
            }));
        }
        let last = self.sent.as_ref().map(|sent| &sent.resources);
        let told = repeat == Repeat::No && last == Some(&found.resources);
        if found.resources.is_empty() || told {
            return;
        }
        let sent = Sent {
            version: self.version.to_string(),
            nonce: format!("{:08x}", self.next_nonce),
            resources: found.resources,
        };
        self.next_nonce = self.next_nonce.wrapping_add(1);
        actions.push(Action::Send(Response {
            version: sent.version.clone(),
            nonce: sent.nonce.clone(),
            type_url: asked.type_url.clone(),
            resources: sent.resources.clone(),
        }));
        self.sent = Some(sent);
    }
}

/// Whether an answer may be the same as the one before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Repeat {
    Yes,
    No,
}

#[cfg(test)]
mod tests;
