//! Connections to servers: a name, TCP, TLS 1.3, and somebody who judges the other end.
//!
//! A name may have many addresses, and a server many names: each gets its share of the time, for behind one
//! that is silent stands one that answers.

mod tls;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::tls::refusal_in;
pub use self::tls::{Judge, Shown, client_config, refused};

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// How to connect to a server.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Its names or addresses with their ports, in the order in which they are tried.
    pub hosts: Vec<(String, u16)>,
    /// See [`client_config`].
    pub tls: Arc<ClientConfig>,
    /// How long a connection may take to be made, all addresses together.
    pub connect: Duration,
    /// How long sent bytes may stay unacknowledged, and how long a network may be silent that carries
    /// nothing. It is the kernel that asks, so this holds towards any server.
    pub silence: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no such name, or nobody who knows it.
    #[error("could not resolve `{host}`")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name is known, and leads nowhere.
    #[error("`{host}` has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// Nobody listens there, or the network does not lead there.
    #[error("could not connect to `{addr}`")]
    Tcp {
        /// Where.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other end speaks no TLS of ours, or refuses us.
    #[error("the TLS handshake with `{addr}` failed")]
    Handshake {
        /// Where.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The judge does not take the other end for the server.
    #[error("`{addr}` is not the server")]
    NotTheServer {
        /// Where.
        addr: SocketAddr,
        /// What the judge said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// This address took longer than its share of the time.
    #[error("`{addr}` did not answer in time")]
    Silent {
        /// Where.
        addr: SocketAddr,
    },
    /// All of it took too long.
    #[error("the server did not answer in time")]
    Deadline,
}

impl Dialer {
    /// Makes a connection. All of it takes no longer than `connect`.
    pub async fn dial(&self) -> Result<TlsStream<TcpStream>, DialError> {
        let dialed = tokio::time::timeout(self.connect, self.dial_hosts()).await;
        dialed.unwrap_or(Err(DialError::Deadline))
    }

    async fn dial_hosts(&self) -> Result<TlsStream<TcpStream>, DialError> {
        let share = share(self.connect, self.hosts.len());
        let mut last = DialError::Deadline;
        for (host, port) in &self.hosts {
            match self.dial_host(host, *port, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial_host(
        &self,
        host: &str,
        port: u16,
        time: Duration,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let resolved = tokio::time::timeout(time, lookup_host((host, port))).await;
        let resolved = resolved.map_err(|_late| DialError::Deadline)?;
        let addresses = resolved.map_err(|source| DialError::Resolve {
            host: host.to_owned(),
            source,
        })?;
        let addresses: Vec<_> = addresses.take(MAX_ADDRESSES).collect();
        let share = share(time, addresses.len());
        let mut last = DialError::NoAddress {
            host: host.to_owned(),
        };
        for addr in addresses {
            let dialed = tokio::time::timeout(share, self.dial_addr(host, addr)).await;
            match dialed.unwrap_or(Err(DialError::Silent { addr })) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial_addr(
        &self,
        host: &str,
        addr: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let tcp = |source| DialError::Tcp { addr, source };
        let stream = TcpStream::connect(addr).await.map_err(tcp)?;
        stream.set_nodelay(true).map_err(tcp)?;
        watch(&stream, self.silence).map_err(tcp)?;
        let name = ServerName::try_from(host.to_owned())
            .unwrap_or_else(|_odd| ServerName::from(addr.ip()));
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let connected = connector.connect(name, stream).await;
        connected.map_err(|source| match refusal_in(&source) {
            Some(refusal) => DialError::NotTheServer {
                addr,
                source: Arc::clone(refusal),
            },
            None => DialError::Handshake { addr, source },
        })
    }
}

fn share(time: Duration, parts: usize) -> Duration {
    time / u32::try_from(parts).unwrap_or(u32::MAX).max(1)
}

/// Has the kernel end a connection whose other end has been silent for too long: while bytes are under
/// way, and by probes while none are.
fn watch(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    // The kernel takes whole seconds, and no zero.
    let seconds = |length: Duration| u32::try_from(length.as_secs()).unwrap_or(u32::MAX).max(1);
    setsockopt(stream, TcpUserTimeout, &millis)?;
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &seconds(silence / 2))?;
    setsockopt(stream, TcpKeepInterval, &seconds(silence / 4))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[tokio::test]
    async fn the_kernel_watches_connections_that_carry_something_and_those_that_carry_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        watch(&stream, Duration::from_secs(20)).unwrap();
        assert_eq!(getsockopt(&stream, TcpUserTimeout).unwrap(), 20_000);
        assert!(getsockopt(&stream, KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, TcpKeepIdle).unwrap(), 10);
        assert_eq!(getsockopt(&stream, TcpKeepInterval).unwrap(), 5);
    }
}
