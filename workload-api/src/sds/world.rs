//! One stream of secrets in the state of the world.
//!
//! A name that stands for nothing does not end the stream, as it does in SPIRE: it is left pending,
//! the others are answered, and it is answered when it appears. A response is never empty, because
//! Envoy rejects an empty one; so a withdrawn secret is simply not renewed. A change of what was not
//! asked for sends nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::machine::{Action, Desk, Dialect, Event, Remark, Response};
use super::node::NodeTraits;
use super::request::WorldRequest;
use super::resources::Names;
use super::secret::Version;
use crate::metrics::Method;
use crate::status::Refusal;

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

impl TryFrom<WorldRequest> for Request {
    type Error = Refusal;

    fn try_from(message: WorldRequest) -> Result<Self, Refusal> {
        Ok(Self {
            names: Names::read(message.resource_names)?,
            type_url: message.type_url,
            version: message.version_info,
            nonce: message.response_nonce,
            node: message.node.as_ref().map(NodeTraits::of),
            error: message.error_detail.map(|detail| detail.message),
        })
    }
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct World {
    desk: Desk,
    asked: Option<Names>,
    pending: Vec<String>,
    sent: Option<Sent>,
}

/// The last response.
#[derive(Debug)]
struct Sent {
    version: String,
    nonce: String,
    secrets: BTreeMap<String, Version>,
}

impl Dialect for World {
    const METHOD: Method = Method::StreamSecrets;
    type Message = WorldRequest;
    type Request = Request;

    fn open(desk: Desk) -> Self {
        Self {
            desk,
            asked: None,
            pending: Vec::new(),
            sent: None,
        }
    }

    fn apply(&mut self, event: Event<Request>) -> Result<Vec<Action>, Refusal> {
        let mut actions = Vec::new();
        match event {
            Event::Requested(request) => self.requested(request, &mut actions)?,
            Event::Updated(update) => {
                self.desk.updated(update);
                self.answer(Repeat::No, &mut actions);
            }
        }
        Ok(actions)
    }

    fn encode(response: &Response) -> Bytes {
        response.to_world()
    }
}

impl World {
    fn requested(&mut self, request: Request, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        if let Some(sent) = &self.sent {
            // After the first response every request answers one, and only the newest counts.
            if request.nonce != sent.nonce {
                actions.push(Action::Remark(Remark::StaleNonce));
                return Ok(());
            }
            let rejected = request.error.is_some() || request.version != sent.version;
            let error = rejected.then(|| request.error.unwrap_or_default());
            actions.extend(self.desk.judged(error).map(Action::Remark));
        }
        let before = self.desk.node();
        self.desk.greet(request.node, &request.type_url)?;
        // Neither an acknowledgement nor a rejection is a reason to send the same again.
        if self.desk.node() != before || self.asked.as_ref() != Some(&request.names) {
            self.asked = Some(request.names);
            self.answer(Repeat::Yes, actions);
        }
        Ok(())
    }

    /// Answers the last request with the last update, as soon as there are both.
    fn answer(&mut self, repeat: Repeat, actions: &mut Vec<Action>) {
        let (Some(asked), Some(catalog)) = (&self.asked, self.desk.catalog()) else {
            return;
        };
        let found = catalog.find(asked);
        if found.pending != self.pending {
            self.pending.clone_from(&found.pending);
            actions.push(Action::Remark(Remark::Pending {
                names: found.pending,
            }));
        }
        let secrets = (found.resources.iter())
            .map(|resource| (resource.name.clone(), resource.secret.version()))
            .collect();
        let told = repeat == Repeat::No
            && self
                .sent
                .as_ref()
                .is_some_and(|sent| sent.secrets == secrets);
        if found.resources.is_empty() || told {
            return;
        }
        let response = self.desk.response(found.resources, Vec::new());
        self.sent = Some(Sent {
            version: response.version.clone(),
            nonce: response.nonce.clone(),
            secrets,
        });
        actions.push(Action::Send(response));
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
