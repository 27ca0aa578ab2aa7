//! The URL of a bundle endpoint.

use std::fmt;

use http::Uri;

/// The longest URL that is taken, in bytes.
const MAX_BYTES: usize = 2048;
const HTTPS_PORT: u16 = 443;

/// The `https` URL of a bundle endpoint, as it was written.
#[derive(Clone, Eq, PartialEq)]
pub struct EndpointUrl {
    text: String,
    uri: Uri,
}

/// Why a text is not the URL of a bundle endpoint. The words are SPIRE's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UrlError {
    #[error("bundle endpoint URL must use the https scheme")]
    NotHttps,
    #[error("bundle endpoint URL must specify the host")]
    NoHost,
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
    #[error("failed to parse bundle endpoint URL")]
    Malformed,
    #[error("bundle endpoint URL is longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl UrlError {
    /// The stable label of metrics and logs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotHttps => "url_not_https",
            Self::NoHost => "url_no_host",
            Self::UserInfo => "url_user_info",
            Self::Malformed => "url_malformed",
            Self::TooLong => "url_too_long",
        }
    }
}

impl EndpointUrl {
    /// Reads a URL of at most 2048 bytes.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_BYTES {
            return Err(UrlError::TooLong);
        }
        // SPIFFE Federation 5.2.1.1, 5.2.2.1: the scheme is https.
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::NotHttps)?;
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(UrlError::NotHttps);
        }
        let rest = rest.strip_prefix("//").ok_or(UrlError::NoHost)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((_, host)) => (true, host),
            None => (false, authority),
        };
        if host.is_empty() || host.starts_with(':') {
            return Err(UrlError::NoHost);
        }
        // SPIFFE Federation 5.2.1.1, 5.2.2.1: nobody is named in the URL.
        if user {
            return Err(UrlError::UserInfo);
        }
        let text = format!("https://{rest}");
        let uri: Uri = text.parse().map_err(|_malformed| UrlError::Malformed)?;
        let colon = match host.rsplit_once(']') {
            Some((_, port)) => port.strip_prefix(':'),
            None => host.split_once(':').map(|(_, port)| port),
        };
        if colon.is_some() && uri.port_u16().is_none() {
            return Err(UrlError::Malformed);
        }
        Ok(Self { text, uri })
    }

    /// The URL as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
    }

    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(HTTPS_PORT)
    }

    /// Host and port as a request names them.
    pub(crate) fn authority(&self) -> &str {
        self.uri
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    pub(crate) fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_an_https_url_as_it_is_written() {
        for (text, host, port, path) in [
            ("https://fed.org", "fed.org", 443, "/"),
            ("https://fed.org:8443/b?x=1", "fed.org", 8443, "/b?x=1"),
            ("https://[::1]:9/", "::1", 9, "/"),
            ("https://[::1]", "::1", 443, "/"),
            ("https://127.0.0.1:9", "127.0.0.1", 9, "/"),
        ] {
            let url = EndpointUrl::parse(text).unwrap();
            assert_eq!(url.as_str(), text);
            assert_eq!(
                (url.host(), url.port(), url.path_and_query()),
                (host, port, path)
            );
        }
        assert_eq!(
            EndpointUrl::parse("HTTPS://fed.org/").unwrap().as_str(),
            "https://fed.org/"
        );
    }

    #[test]
    fn refuses_a_url_that_is_not_https_or_names_a_user() {
        for (text, error) in [
            ("", UrlError::NotHttps),
            ("fed.org", UrlError::NotHttps),
            ("http://fed.org/", UrlError::NotHttps),
            ("https:fed.org", UrlError::NoHost),
            ("https://", UrlError::NoHost),
            ("https:///path", UrlError::NoHost),
            ("https://:443/", UrlError::NoHost),
            ("https://user@fed.org/", UrlError::UserInfo),
            ("https://user:word@fed.org/", UrlError::UserInfo),
            ("https://fed.org:port/", UrlError::Malformed),
            ("https://fed.org:/", UrlError::Malformed),
            ("https://fed.org:99999/", UrlError::Malformed),
            ("https://fed org/", UrlError::Malformed),
            ("https://fed.org/\n", UrlError::Malformed),
        ] {
            assert_eq!(EndpointUrl::parse(text), Err(error), "{text:?}");
        }
        let long = format!("https://fed.org/{}", "a".repeat(MAX_BYTES));
        assert_eq!(EndpointUrl::parse(&long), Err(UrlError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_or_an_error(text in "(https://)?.{0,60}") {
            if let Ok(url) = EndpointUrl::parse(&text) {
                prop_assert!(!url.host().is_empty());
                prop_assert!(!url.authority().contains('@'));
                prop_assert_eq!(EndpointUrl::parse(url.as_str()).unwrap(), url);
            }
        }
    }
}
