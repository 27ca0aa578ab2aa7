//! Workloads as the SPIFFE documents describe them: each keeps a stream to its agent open, goes by what came
//! last over it, and opens the stream again where it broke off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use identity::x509::{Certificate, parse_concatenated_der};
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{X509svid, X509svidRequest, X509svidResponse};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::api::try_admin_channel;
use crate::process::HANG;

/// How soon a stream that broke off is opened again.
const AGAIN: Duration = Duration::from_millis(20);

/// Opens a stream of X509-SVIDs.
pub async fn open_x509(channel: Channel) -> Result<Streaming<X509svidResponse>, Status> {
    let mut request = Request::new(X509svidRequest {});
    let header = "true".parse().unwrap();
    request.metadata_mut().insert("workload.spiffe.io", header);
    let mut client = SpiffeWorkloadApiClient::new(channel);
    Ok(client.fetch_x509svid(request).await?.into_inner())
}

/// An identity, and the bundle that came with it.
#[derive(Debug)]
pub struct Shown {
    pub chain: Vec<Certificate>,
    pub key: PrivateKeyDer<'static>,
    pub bundle: Vec<Certificate>,
}

impl Shown {
    fn of(svid: &X509svid) -> Self {
        let key = PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec());
        Self {
            chain: parse_concatenated_der(&svid.x509_svid).unwrap(),
            key: key.into(),
            bundle: parse_concatenated_der(&svid.bundle).unwrap(),
        }
    }

    /// The name of the authority that signed it.
    pub fn signer(&self) -> String {
        self.chain[0].authority_key_id().unwrap()
    }

    /// The names of the authorities in its bundle.
    pub fn authorities(&self) -> Vec<String> {
        let authorities = self.bundle.iter();
        authorities
            .map(|authority| authority.subject_key_id().unwrap())
            .collect()
    }

    /// The serial number of the leaf.
    pub fn serial(&self) -> &str {
        self.chain[0].serial_decimal()
    }
}

/// One of the identities that this process has from an agent.
#[derive(Debug)]
pub struct Workload {
    pub spiffe_id: String,
    newest: watch::Receiver<Option<Arc<Shown>>>,
    _follows: JoinSet<()>,
}

impl Workload {
    /// Follows what the agent behind the socket shows of this SPIFFE ID, and waits until it shows any.
    pub async fn start(socket: &Path, spiffe_id: &str) -> Self {
        let (sender, newest) = watch::channel(None);
        let mut follows = JoinSet::new();
        follows.spawn(follow(socket.to_owned(), spiffe_id.to_owned(), sender));
        let mut workload = Self {
            spiffe_id: spiffe_id.to_owned(),
            newest,
            _follows: follows,
        };
        workload.until("it has an identity", |_| true).await;
        workload
    }

    /// What it goes by now.
    pub fn newest(&self) -> Arc<Shown> {
        let newest = self.newest.borrow().clone();
        newest.expect("the agent took the identity away")
    }

    /// What it goes by, at each time that this is asked.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Shown>>> {
        self.newest.clone()
    }

    /// Waits until it is shown something of that kind.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Shown) -> bool) -> Arc<Shown> {
        let is_it = |newest: &Option<Arc<Shown>>| newest.as_deref().is_some_and(&holds);
        let found = tokio::time::timeout(HANG, self.newest.wait_for(is_it)).await;
        let found = found.unwrap_or_else(|_late| panic!("never for {}: {what}", self.spiffe_id));
        found.unwrap().clone().unwrap()
    }
}

async fn follow(socket: PathBuf, spiffe_id: String, newest: watch::Sender<Option<Arc<Shown>>>) {
    loop {
        if let Ok(channel) = try_admin_channel(&socket).await
            && let Ok(mut stream) = open_x509(channel).await
        {
            while let Ok(Some(response)) = stream.message().await {
                let mut svids = response.svids.iter();
                let own = svids.find(|svid| svid.spiffe_id == spiffe_id);
                newest.send_replace(own.map(|svid| Arc::new(Shown::of(svid))));
            }
        }
        // A workload keeps what it has while its agent is away.
        tokio::time::sleep(AGAIN).await;
    }
}
