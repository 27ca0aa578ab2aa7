//! Who is calling.
//!
//! The listener says how the caller is connected; the gate makes a [`Caller`] of it and puts it into
//! the request. A handler that acts for an agent takes an [`AgentCaller`], which nobody but the gate
//! can make.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use identity::spiffe_id::SpiffeId;
use identity::x509::Certificate;
use runtime::listen::TlsPeer;
use runtime::unix::Credentials;
use tonic::{Request, Status};

use crate::index::agents::StoredAgent;
use crate::index::authorized::Asker;

/// A caller that the gate let through.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(super) connection: Connection,
    pub(super) agent: Option<AgentCaller>,
}

/// How a caller is connected, and what the TLS handshake proved.
#[derive(Clone, Debug)]
pub(super) enum Connection {
    Local(Credentials),
    Tls {
        addr: SocketAddr,
        svid: Option<Arc<Svid>>,
    },
}

/// The X509-SVID of a TLS client. Its chain was verified in the handshake.
#[derive(Debug)]
pub(super) struct Svid {
    pub(super) id: SpiffeId,
    pub(super) leaf: Certificate,
    peer: Arc<TlsPeer>,
}

impl Svid {
    /// What the client has shown above its leaf, as far as it can be read: not all of it need be part of
    /// the chain that was verified.
    pub(super) fn above(&self) -> impl Iterator<Item = Certificate> {
        let above = self.peer.certificates.iter().skip(1);
        above.filter_map(|der| Certificate::parse(der).ok())
    }
}

/// An attested agent, as the index showed it when its call was let through.
#[derive(Clone, Debug)]
pub(crate) struct AgentCaller {
    agent: StoredAgent,
}

impl AgentCaller {
    pub(super) fn new(agent: StoredAgent) -> Self {
        Self { agent }
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        &self.agent.value.id
    }

    /// The agent, asking for its entries.
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker {
            id: &self.agent.value.id,
            selectors: &self.agent.value.selectors,
        }
    }
}

impl Caller {
    /// The caller of a request that passed the gate.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Status::internal("caller missing from request context"))
    }

    /// The network address that the call came from.
    pub(super) fn addr(&self) -> Option<IpAddr> {
        self.connection.addr()
    }

    /// The X509-SVID that the caller showed.
    pub(super) fn svid(&self) -> Option<&Arc<Svid>> {
        match &self.connection {
            Connection::Tls { svid, .. } => svid.as_ref(),
            Connection::Local(_) => None,
        }
    }

    /// The serial number of the X509-SVID that the caller showed as this very SPIFFE ID.
    pub(super) fn serial_as(&self, id: &SpiffeId) -> Option<&str> {
        match &self.connection {
            Connection::Tls {
                svid: Some(svid), ..
            } if svid.id == *id => Some(svid.leaf.serial_decimal()),
            Connection::Tls { .. } | Connection::Local(_) => None,
        }
    }

    /// The agent that makes a request which is for agents alone.
    pub(crate) fn agent_of<T>(request: &Request<T>) -> Result<AgentCaller, Status> {
        let agent = Self::of(request)?.agent;
        agent.ok_or_else(|| Status::internal("caller ID missing from request context"))
    }
}

impl Connection {
    /// Reads what the listener knows. `None` means that the listener said nothing, which no listener
    /// of ours does; a certificate that cannot be read again is an error.
    pub(super) fn of(extensions: &http::Extensions) -> Result<Self, Unreadable> {
        if let Some(credentials) = extensions.get::<Credentials>() {
            return Ok(Self::Local(*credentials));
        }
        let Some(peer) = extensions.get::<Arc<TlsPeer>>() else {
            return Err(Unreadable);
        };
        let svid = match peer.certificates.first() {
            None => None,
            Some(leaf) => {
                let leaf = Certificate::parse(leaf).map_err(|_cause| Unreadable)?;
                let id = leaf.spiffe_id().map_err(|_cause| Unreadable)?;
                Some(Arc::new(Svid {
                    id,
                    leaf,
                    peer: Arc::clone(peer),
                }))
            }
        };
        Ok(Self::Tls {
            addr: peer.addr,
            svid,
        })
    }
}

impl Connection {
    /// The network address of the peer.
    pub(super) fn addr(&self) -> Option<IpAddr> {
        match self {
            // An IPv4 peer of a listener for both is the same peer.
            Self::Tls { addr, .. } => Some(addr.ip().to_canonical()),
            Self::Local(_) => None,
        }
    }
}

/// The caller is not to be made out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable;

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(credentials) => match credentials.pid {
                Some(pid) => write!(f, "local(uid={},pid={pid})", credentials.uid),
                None => write!(f, "local(uid={})", credentials.uid),
            },
            Self::Tls { addr, svid: None } => write!(f, "anonymous({addr})"),
            Self::Tls {
                svid: Some(svid), ..
            } => svid.id.fmt(f),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connection.fmt(f)
    }
}
