//! What a stream answers to bytes, for fuzzing.

use std::sync::Arc;

use prost::Message as _;

use super::machine::{Action, Desk, Dialect, Event};
use super::{Delta, World};
use crate::source::Update;

/// A response to bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replayed {
    /// Its nonce.
    pub nonce: String,
    /// The names and versions of its secrets.
    pub secrets: Vec<(String, String)>,
    /// The names that it tells as removed.
    pub removed: Vec<String>,
}

/// What a stream of the state of the world answers when these bytes come as its requests, with the
/// update after the first one and again after the last; `None` if it ends.
pub fn replay(requests: &[&[u8]], update: &Arc<Update>) -> Option<Vec<Replayed>> {
    replay_as::<World>(requests, update)
}

/// The same with a stream of what has changed.
pub fn replay_delta(requests: &[&[u8]], update: &Arc<Update>) -> Option<Vec<Replayed>> {
    replay_as::<Delta>(requests, update)
}

fn replay_as<D: Dialect>(requests: &[&[u8]], update: &Arc<Update>) -> Option<Vec<Replayed>> {
    let mut machine = D::open(Desk::new(Arc::default(), 0));
    let mut answers = Vec::new();
    let mut apply = |event| {
        for action in machine.apply(event).ok()? {
            if let Action::Send(response) = action {
                let resources = response.resources.iter();
                answers.push(Replayed {
                    nonce: response.nonce.clone(),
                    secrets: resources
                        .map(|it| (it.name.clone(), it.secret.version().to_string()))
                        .collect(),
                    removed: response.removed.clone(),
                });
                let _ = D::encode(&response);
            }
        }
        Some(())
    };
    for (number, bytes) in requests.iter().enumerate() {
        let message = D::Message::decode(*bytes).ok()?;
        apply(Event::Requested(D::Request::try_from(message).ok()?))?;
        if number == 0 {
            apply(Event::Updated(Arc::clone(update)))?;
        }
    }
    apply(Event::Updated(Arc::clone(update)))?;
    Some(answers)
}
