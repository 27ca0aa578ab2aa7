//! Bad input, bad state and bad luck, as an operator meets them: the built programs say what is wrong
//! and what to do, end with 1, and leave the state as it was.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong in a helper is the failure of the test that calls it"
)]

mod admin_socket;
mod audit;
mod disk;
mod place;
mod push;
mod signals;
mod start;
mod state;
