//! `api fetch x509 -write`: one file for each chain, key and bundle.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use identity::x509::to_pem;

use super::answer::Svid;
use crate::console::{Console, say};
use crate::failure::{Failure, os_error};

/// Everybody may read a certificate, its owner alone a key.
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

pub(super) fn svids(console: &mut Console, folder: &Path, svids: &[Svid]) -> Result<(), Failure> {
    for (at, svid) in svids.iter().enumerate() {
        let path = folder.join(format!("svid.{at}.pem"));
        say!(console, "Writing SVID #{at} to file {}.", path.display());
        write(&path, to_pem(&svid.chain).as_bytes(), PUBLIC)?;
        let path = folder.join(format!("svid.{at}.key"));
        say!(console, "Writing key #{at} to file {}.", path.display());
        write(&path, svid.key.to_pkcs8_pem().as_bytes(), PRIVATE)?;
        let path = folder.join(format!("bundle.{at}.pem"));
        say!(console, "Writing bundle #{at} to file {}.", path.display());
        write(&path, to_pem(&svid.bundle).as_bytes(), PUBLIC)?;
        for (number, (id, bundle)) in svid.federated.iter().enumerate() {
            let path = folder.join(format!("federated_bundle.{at}.{number}.pem"));
            say!(
                console,
                "Writing federated bundle #{number} for trust domain {id} to file {}.",
                path.display()
            );
            write(&path, to_pem(bundle).as_bytes(), PUBLIC)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let written = || -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(path)?;
        // A file that was there keeps its mode on opening; a key must not lie open from before.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)
    };
    written()
        .map_err(|error| Failure::new(format!("open {}: {}", path.display(), os_error(&error))))
}
