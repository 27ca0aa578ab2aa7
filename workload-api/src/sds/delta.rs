//! One stream of secrets that sends what has changed.
//!
//! The machine keeps what it has told of each name, and sends the difference to what there is. A name
//! that stands for nothing is told as removed, at once and not by silence, and is sent when it
//! appears. A proxy that comes back says which versions it has, and is sent the others only.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::machine::{Action, Desk, Dialect, Event, Remark, Response};
use super::node::NodeTraits;
use super::request::DeltaRequest;
use super::resources::{Names, Resource};
use super::secret::Version;
use crate::metrics::Method;
use crate::status::Refusal;

/// The name that subscribes to everything.
const WILDCARD: &str = "*";

/// What a proxy asks for, or says about a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) subscribe: Names,
    pub(crate) unsubscribe: Names,
    /// What the proxy has of an earlier stream, by name. Counts in the first request alone.
    pub(crate) has: HashMap<String, String>,
    pub(crate) type_url: String,
    pub(crate) nonce: String,
    pub(crate) node: Option<NodeTraits>,
    /// Why the response was rejected.
    pub(crate) error: Option<String>,
}

impl TryFrom<DeltaRequest> for Request {
    type Error = Refusal;

    fn try_from(message: DeltaRequest) -> Result<Self, Refusal> {
        // What it has is bounded like what it asks for.
        Names::read(message.initial_resource_versions.keys().cloned())?;
        Ok(Self {
            subscribe: Names::read(message.resource_names_subscribe)?,
            unsubscribe: Names::read(message.resource_names_unsubscribe)?,
            has: message.initial_resource_versions,
            type_url: message.type_url,
            nonce: message.response_nonce,
            node: message.node.as_ref().map(NodeTraits::of),
            error: message.error_detail.map(|detail| detail.message),
        })
    }
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Delta {
    desk: Desk,
    /// `None` before the first request.
    wanted: Option<Wanted>,
    told: BTreeMap<String, Told>, // INVARIANT: without the wildcard, names that are wanted.
    last_nonce: String,
}

#[derive(Debug, Default)]
struct Wanted {
    names: Names,
    everything: bool,
    /// Everything is answered once even if that is nothing, so that the proxy need not wait for it.
    owed: bool,
}

/// What the proxy was told of a name, or says that it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Told {
    Version(Version),
    /// That there is no such secret.
    Nothing,
    /// Something, or it is to be told again.
    Unsure,
}

impl Dialect for Delta {
    const METHOD: Method = Method::DeltaSecrets;
    type Message = DeltaRequest;
    type Request = Request;

    fn open(desk: Desk) -> Self {
        Self {
            desk,
            wanted: None,
            told: BTreeMap::new(),
            last_nonce: String::new(),
        }
    }

    fn apply(&mut self, event: Event<Request>) -> Result<Vec<Action>, Refusal> {
        let mut actions = Vec::new();
        match event {
            Event::Requested(request) => self.requested(request, &mut actions)?,
            Event::Updated(update) => self.desk.updated(update),
        }
        self.answer(&mut actions);
        Ok(actions)
    }

    fn encode(response: &Response) -> Bytes {
        response.to_delta()
    }
}

impl Delta {
    fn requested(&mut self, request: Request, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        self.desk.greet(request.node, &request.type_url)?;
        // Unlike in the state of the world, a request counts whatever it answers: it changes the
        // subscriptions, and says nothing of those that it does not name.
        if !request.nonce.is_empty() {
            if request.error.is_none() && request.nonce != self.last_nonce {
                actions.push(Action::Remark(Remark::StaleNonce));
            } else {
                actions.extend(self.desk.judged(request.error).map(Action::Remark));
            }
        }
        let first = self.wanted.is_none();
        let wanted = self.wanted.get_or_insert_default();
        if first && request.subscribe.is_empty() {
            wanted.everything = true;
            wanted.owed = true;
        }
        for name in request.unsubscribe.iter() {
            wanted.unsubscribe(name, &mut self.told);
        }
        for name in request.subscribe.iter() {
            wanted.subscribe(name, &mut self.told)?;
        }
        if first {
            // An empty name is no name here either: it could only be told as removed.
            let kept = (request.has.into_iter())
                .filter(|(name, _)| wanted.everything || wanted.names.contains(name))
                .filter(|(name, _)| !name.is_empty())
                .map(|(name, version)| (name, Told::claimed(&version)));
            self.told.extend(kept);
        }
        Ok(())
    }

    /// Sends the difference between what was told and what there is.
    fn answer(&mut self, actions: &mut Vec<Action>) {
        let (Some(wanted), Some(catalog)) = (&mut self.wanted, self.desk.catalog()) else {
            return;
        };
        let mut there = BTreeMap::new();
        if wanted.everything {
            let all = catalog.everything().into_iter();
            there.extend(all.map(|(name, secret)| (name, Some(secret))));
        }
        for name in wanted.names.iter() {
            if !there.contains_key(name) {
                there.insert(name.clone(), catalog.secret(name));
            }
        }
        let (mut resources, mut removed, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        // What is wanted only as a part of everything, and is a part of it no more.
        self.told.retain(|name, told| {
            let stays = there.contains_key(name);
            if !stays && *told != Told::Nothing {
                removed.push(name.clone());
            }
            stays
        });
        for (name, secret) in there {
            let now = (secret.as_ref()).map_or(Told::Nothing, |it| Told::Version(it.version()));
            if self.told.get(&name) == Some(&now) {
                continue;
            }
            self.told.insert(name.clone(), now);
            match secret {
                Some(secret) => resources.push(Resource { name, secret }),
                None => pending.push(name),
            }
        }
        if !pending.is_empty() {
            let names = pending.clone();
            actions.push(Action::Remark(Remark::Pending { names }));
        }
        removed.append(&mut pending);
        // Without the wildcard an empty response says nothing, and Envoy rejects it.
        if resources.is_empty() && removed.is_empty() && !wanted.owed {
            return;
        }
        wanted.owed = false;
        let response = self.desk.response(resources, removed);
        self.last_nonce.clone_from(&response.nonce);
        actions.push(Action::Send(response));
    }
}

impl Wanted {
    /// A name that is asked for again is answered again, also if nothing has changed: the proxy may
    /// have forgotten it.
    fn subscribe(&mut self, name: &str, told: &mut BTreeMap<String, Told>) -> Result<(), Refusal> {
        if name == WILDCARD {
            self.everything = true;
            self.owed = true;
            told.values_mut().for_each(|told| *told = Told::Unsure);
            return Ok(());
        }
        self.names.insert(name.to_owned())?;
        forget(name, told);
        Ok(())
    }

    fn unsubscribe(&mut self, name: &str, told: &mut BTreeMap<String, Told>) {
        if name == WILDCARD {
            self.everything = false;
            self.owed = false;
            told.retain(|name, _| self.names.contains(name));
            return;
        }
        let named = self.names.remove(name);
        if self.everything {
            // As a part of everything it stays wanted, and the proxy may have dropped it.
            forget(name, told);
        } else if named {
            told.remove(name);
        }
    }
}

fn forget(name: &str, told: &mut BTreeMap<String, Told>) {
    if let Some(told) = told.get_mut(name) {
        *told = Told::Unsure;
    }
}

impl Told {
    /// A version that is not one of ours differs from all that we have.
    fn claimed(version: &str) -> Self {
        Version::parse(version).map_or(Self::Unsure, Self::Version)
    }
}

#[cfg(test)]
mod tests;
