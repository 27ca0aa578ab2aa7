//! X509-SVIDs line by line, as SPIRE's program prints them.

use std::time::Duration;

use identity::x509::Certificate;

use super::answer::Svid;
use crate::console::{Console, say};
use crate::go;

/// Which of the two commands prints; they differ a little.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Manner {
    /// With hints, and SPIFFE IDs of foreign trust domains.
    Fetch,
    /// Without hints, and with names of foreign trust domains.
    Watch,
}

pub(super) fn svids(console: &mut Console, svids: &[Svid], took: Duration, manner: Manner) {
    let (count, end) = (svids.len(), if svids.len() == 1 { "" } else { "s" });
    say!(
        console,
        "Received {count} svid{end} after {}",
        go::duration(took)
    );
    for svid in svids {
        say!(console);
        say!(console, "SPIFFE ID:\t\t{}", svid.id);
        if manner == Manner::Fetch && !svid.hint.is_empty() {
            say!(console, "Hint:\t\t\t{}", svid.hint);
        }
        for (at, certificate) in svid.chain.iter().enumerate() {
            match at {
                0 => validity(console, "SVID", certificate),
                at => validity(console, &format!("Intermediate #{at}"), certificate),
            }
        }
        authorities(console, "", &svid.bundle);
        for (id, bundle) in svid.federated.iter() {
            let name = match manner {
                Manner::Fetch => id,
                Manner::Watch => id.strip_prefix("spiffe://").unwrap_or(id),
            };
            authorities(console, &format!("[{name}] "), bundle);
        }
    }
    say!(console);
}

fn authorities(console: &mut Console, of: &str, bundle: &[Certificate]) {
    for (number, authority) in (1..).zip(bundle) {
        validity(console, &format!("{of}CA #{number}"), authority);
    }
}

fn validity(console: &mut Console, what: &str, certificate: &Certificate) {
    let validity = certificate.validity();
    say!(
        console,
        "{what} Valid After:\t{}",
        go::time(validity.not_before())
    );
    say!(
        console,
        "{what} Valid Until:\t{}",
        go::time(validity.not_after())
    );
}
