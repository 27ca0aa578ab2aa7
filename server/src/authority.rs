//! The signing authorities of this server.

mod slots;

pub(crate) use self::slots::{Held, Refused, SlotId, Slots, State, Step, Term};

/// The kinds of authorities.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    X509,
    Jwt,
}
