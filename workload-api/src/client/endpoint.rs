//! The address of a Workload Endpoint, as `SPIFFE_ENDPOINT_SOCKET` holds it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longer texts are refused.
const MAX_BYTES: usize = 1024;
/// The kernel takes no longer path of a socket. Percent-encoded it is still within [`MAX_BYTES`].
const MAX_PATH_BYTES: usize = 107;

/// Where a Workload API is served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
    /// An address with its port.
    Tcp(SocketAddr),
}

impl Endpoint {
    /// Parses `unix:///path`, `unix:/path` or `tcp://address:port`, and nothing else.
    pub fn parse(uri: &str) -> Result<Self, EndpointError> {
        if uri.len() > MAX_BYTES {
            return Err(EndpointError::TooLong);
        }
        // Workload Endpoint 4: no query and no fragment, whatever the scheme.
        if uri.contains(['?', '#']) {
            return Err(EndpointError::Extra);
        }
        // Workload Endpoint 4: the scheme is `unix` or `tcp`. RFC 3986 3.1: it has no case.
        match uri.split_once(':') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("unix") => unix(rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tcp") => tcp(rest),
            _ => Err(EndpointError::Scheme),
        }
    }

    /// A Unix socket by its path.
    pub fn unix(path: &Path) -> Result<Self, EndpointError> {
        if path.is_absolute() {
            Ok(Self::Unix(path.to_owned()))
        } else {
            Err(EndpointError::Path)
        }
    }
}

fn unix(rest: &str) -> Result<Endpoint, EndpointError> {
    // Workload Endpoint 4: no authority, and the path is absolute.
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some("") => return Err(EndpointError::Path),
        Some(_) => return Err(EndpointError::Authority),
        None => rest,
    };
    let path = percent_decoded(path).ok_or(EndpointError::Path)?;
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(EndpointError::Path);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(EndpointError::TooLong);
    }
    Ok(Endpoint::Unix(path.into()))
}

fn tcp(rest: &str) -> Result<Endpoint, EndpointError> {
    // Workload Endpoint 4: an IP address and a port; no path, no user.
    let address = rest.strip_prefix("//").ok_or(EndpointError::Address)?;
    match address.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Endpoint::Tcp(address)),
        _ => Err(EndpointError::Address),
    }
}

/// RFC 3986 2.1. `None` if a percent sign stands alone, or the result is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (&[high, low], tail) = tail.split_first_chunk()?;
            bytes.push(digit(high)? << 4 | digit(low)?);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => {
                f.write_str("unix://")?;
                for &byte in path.as_os_str().as_encoded_bytes() {
                    if byte.is_ascii_graphic() && !b"%?#".contains(&byte) {
                        write!(f, "{}", char::from(byte))?;
                    } else {
                        write!(f, "%{byte:02X}")?;
                    }
                }
                Ok(())
            }
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why a text is not the address of a Workload Endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EndpointError {
    /// It is longer than any address.
    #[error("the endpoint address is too long")]
    TooLong,
    /// The scheme is another one, or missing.
    #[error("the endpoint address begins with neither `unix:` nor `tcp:`")]
    Scheme,
    /// A Unix socket has no host.
    #[error("the endpoint address of a Unix socket has an authority (write three slashes)")]
    Authority,
    /// The path is missing or relative, or ends in a slash.
    #[error("the endpoint address has no absolute path of a socket")]
    Path,
    /// It has a query or a fragment.
    #[error("the endpoint address has a query or a fragment")]
    Extra,
    /// There is a name in place of an IP address, no port, or something behind the port.
    #[error("the endpoint address is not an IP address and a port")]
    Address,
}

impl EndpointError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "endpoint_too_long",
            Self::Scheme => "endpoint_scheme",
            Self::Authority => "endpoint_authority",
            Self::Path => "endpoint_path",
            Self::Extra => "endpoint_extra",
            Self::Address => "endpoint_address",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_what_the_standard_allows() {
        for (uri, shown) in [
            ("unix:///tmp/a.sock", "unix:///tmp/a.sock"),
            ("unix:/tmp/a.sock", "unix:///tmp/a.sock"),
            ("UNIX:///tmp/a.sock", "unix:///tmp/a.sock"),
            ("unix:///tmp/a%20b", "unix:///tmp/a%20b"),
            ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
            ("tcp://[::1]:8000", "tcp://[::1]:8000"),
        ] {
            assert_eq!(Endpoint::parse(uri).unwrap().to_string(), shown, "{uri}");
        }
    }

    #[test]
    fn refuses_what_the_standard_forbids() {
        use EndpointError::{Address, Authority, Extra, Path, Scheme};
        for (uri, error) in [
            ("", Scheme),
            ("blah", Scheme),
            ("/tmp/x", Scheme),
            ("http://127.0.0.1:80", Scheme),
            ("unix://foo/path", Authority),
            ("unix://foo", Authority),
            ("unix://john:doe@foo/path", Authority),
            ("unix:tmp/a", Path),
            ("unix://", Path),
            ("unix:", Path),
            ("unix:///", Path),
            ("unix:///a%", Path),
            ("unix:///a%00", Path),
            ("unix:///a?x", Extra),
            ("unix:///a#x", Extra),
            ("tcp://localhost:8000", Address),
            ("tcp://127.0.0.1", Address),
            ("tcp://127.0.0.1:0", Address),
            ("tcp://127.0.0.1:8000/", Address),
            ("tcp://127.0.0.1:8000/foo", Address),
            ("tcp://127.0.0.1:8000?x", Extra),
            ("tcp://127.0.0.1:8000#x", Extra),
            ("tcp://u:p@1.2.3.4:5", Address),
            ("tcp:1.2.3.4:5", Address),
        ] {
            assert_eq!(Endpoint::parse(uri), Err(error), "{uri}");
        }
    }

    #[test]
    fn refuses_a_path_that_no_socket_can_have() {
        let uri = |bytes: usize| format!("unix:///{}", "%C3%A9".repeat(bytes / 2));
        assert!(Endpoint::parse(&uri(106)).is_ok());
        assert_eq!(Endpoint::parse(&uri(108)), Err(EndpointError::TooLong));
    }

    proptest! {
        #[test]
        fn what_parses_comes_back(uri in "(unix|tcp)?:?/{0,3}[ -~é]{0,30}") {
            if let Ok(endpoint) = Endpoint::parse(&uri) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }

        #[test]
        fn every_absolute_path_has_an_address(path in "(/[ -~é]{1,10}){1,4}") {
            prop_assume!(!path.ends_with('/'));
            let endpoint = Endpoint::unix(path.as_ref()).unwrap();
            prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
        }
    }
}
