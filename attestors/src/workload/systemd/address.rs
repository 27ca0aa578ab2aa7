//! The address of a bus, as `DBUS_SYSTEM_BUS_ADDRESS` has it.

use std::path::PathBuf;

/// Takes the first Unix socket with a path: `unix:path=/run/dbus/system_bus_socket,guid=…;…`.
pub fn bus_path(addresses: &str) -> Result<PathBuf, AddressError> {
    let paths = addresses.split(';').filter_map(|address| {
        let keys = address.strip_prefix("unix:")?;
        keys.split(',').find_map(|key| key.strip_prefix("path="))
    });
    let found = paths
        .filter_map(unescape)
        .find(|path| path.starts_with('/'));
    found
        .map(PathBuf::from)
        .ok_or_else(|| AddressError(addresses.to_owned()))
}

/// Everything but letters, digits and a few signs may be written `%2f`.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.extend(hex::decode(digits).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// No address of a bus that can be reached.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` has no address of the form `unix:path=/…`; no other is built")]
pub struct AddressError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_socket_with_a_path_is_taken() {
        for (text, path) in [
            ("unix:path=/run/bus", "/run/bus"),
            ("unix:path=/run/bus,guid=00ff", "/run/bus"),
            ("unix:guid=00ff,path=/run/bus", "/run/bus"),
            ("tcp:host=x;unix:path=/run/a%20b;unix:path=/c", "/run/a b"),
        ] {
            assert_eq!(bus_path(text), Ok(PathBuf::from(path)), "{text}");
        }
        for text in [
            "",
            "/run/bus",
            "unix:abstract=/x",
            "unix:path=x",
            "unix:path=/%f",
            "unix:path=/%00",
        ] {
            assert!(bus_path(text).is_err(), "{text}");
        }
    }
}
