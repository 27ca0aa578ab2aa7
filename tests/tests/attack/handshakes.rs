//! Mutual TLS goes on while everything around it is replaced.

use tests::scenarios::{Pairing, no_handshake_fails_through};

#[test]
fn no_handshake_fails_through_restarts_an_outage_and_the_replacement_of_authorities() {
    no_handshake_fails_through(Pairing::OURS, super::rounds(1).min(10));
}
