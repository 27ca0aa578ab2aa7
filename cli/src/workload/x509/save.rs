//! `api fetch x509 -write`: one file for each chain, key and bundle.

use std::path::Path;

use identity::x509::to_pem;

use super::answer::Svid;
use crate::console::{Console, say};
use crate::failure::Failure;
use crate::files::{Readers, write};

pub(super) fn svids(console: &mut Console, folder: &Path, svids: &[Svid]) -> Result<(), Failure> {
    for (at, svid) in svids.iter().enumerate() {
        let path = folder.join(format!("svid.{at}.pem"));
        say!(console, "Writing SVID #{at} to file {}.", path.display());
        write(&path, to_pem(&svid.chain).as_bytes(), Readers::All)?;
        let path = folder.join(format!("svid.{at}.key"));
        say!(console, "Writing key #{at} to file {}.", path.display());
        write(&path, svid.key.to_pkcs8_pem().as_bytes(), Readers::Owner)?;
        let path = folder.join(format!("bundle.{at}.pem"));
        say!(console, "Writing bundle #{at} to file {}.", path.display());
        write(&path, to_pem(&svid.bundle).as_bytes(), Readers::All)?;
        for (number, (id, bundle)) in svid.federated.iter().enumerate() {
            let path = folder.join(format!("federated_bundle.{at}.{number}.pem"));
            say!(
                console,
                "Writing federated bundle #{number} for trust domain {id} to file {}.",
                path.display()
            );
            write(&path, to_pem(bundle).as_bytes(), Readers::All)?;
        }
    }
    Ok(())
}
