//! What must hold of a server that died, whatever it was doing.

use std::collections::{BTreeMap, BTreeSet};

use identity::bundle::{Bundle, JwtAuthority, X509Authority};
use identity::jwt;
use identity::key::PublicKey;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, Purpose, verify_peer};
use prost::Message as _;
use proto::records::StoredAuthority;
use proto::records::stored_authority::State;
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::svid::svid_client::SvidClient;
use proto::spire::server::svid::{MintJwtsvidRequest, MintX509svidRequest};
use proto::spire::types::{Spiffeid, X509svid};
use rcgen::{CertificateParams, KeyPair, SanType};
use runtime::clock::Clock;
use server::store::{Family, Store};
use tests::api::admin_channel;
use tests::domain::Domain;
use tests::simulated::Site;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

use super::Case;
use crate::operator::{Kind, Operator, States, Step, name};

const ID: &str = "spiffe://example.org/minted";
const AUDIENCE: &str = "anybody";

/// The journal that lies on the disk has at most one active authority of each kind. No server runs.
pub(super) async fn check_stored(domain: &Domain) {
    let folder = domain.folder().join("server");
    let store = Store::open(&folder, &domain.plan.trust_domain).expect("the store opens");
    let (_, records) = store.snapshot().await.expect("the store is read");
    let mut active = BTreeMap::new();
    for record in records {
        if record.key.family() == Some(Family::Authority) {
            let stored = StoredAuthority::decode(record.value).expect("a whole record");
            if stored.state() == State::Active {
                *active.entry(stored.kind).or_insert(0) += 1;
            }
        }
    }
    assert!(active.values().all(|count| *count == 1), "{active:?}");
    store.close().await.expect("the store is let go");
}

/// What a server shows of its authorities.
pub(super) struct Seen {
    x509: States,
    jwt: States,
    bundle: Bundle,
}

impl Seen {
    pub(super) async fn of(domain: &Domain) -> Self {
        let admin = admin_channel(&domain.server_socket()).await;
        let mut operator = Operator::new(admin.clone());
        Self {
            x509: operator.states(Kind::X509).await.expect("the authorities"),
            jwt: operator.states(Kind::Jwt).await.expect("the authorities"),
            bundle: bundle(admin).await,
        }
    }

    fn states(&self, kind: Kind) -> &States {
        match kind {
            Kind::X509 => &self.x509,
            Kind::Jwt => &self.jwt,
        }
    }

    /// The names of all that the bundle has.
    fn published(&self) -> BTreeSet<String> {
        let x509 = self.bundle.x509_authorities.iter();
        let x509 = x509.map(X509Authority::authority_id);
        let jwt = self.bundle.jwt_authorities.iter();
        x509.chain(jwt.map(|authority| authority.key_id.clone()))
            .collect()
    }

    /// One authority of each kind signs and two live at most; the bundle has them or what they lead to, no
    /// other key is kept, and an agent that comes now gets its SVID from the one that signs.
    pub(super) async fn check(&self, domain: &Domain) {
        let (mut live, published) = (0, self.published());
        for kind in Kind::ALL {
            let states = self.states(kind);
            assert!(
                states.active.is_some(),
                "no {} authority signs",
                kind.name()
            );
            for authority in states.live() {
                live += 1;
                let above = &authority.upstream_authority_subject_key_id;
                let leads_to = if above.is_empty() {
                    &authority.authority_id
                } else {
                    above
                };
                assert!(
                    published.contains(leads_to),
                    "{authority:?} is not in {published:?}"
                );
            }
            assert!(states.live().count() <= 2, "{states:?}");
        }
        assert_eq!(kept_keys(domain).len(), live, "{:?}", kept_keys(domain));
        let mut signing = Minter::new(domain).await;
        self.vouch_for(&signing.mint().await.expect("it signs"));
        let site = Site::open(&domain.server_socket(), domain.port).await;
        let signer = site.agent().await.own().leaf().authority_key_id();
        assert_eq!(
            signer,
            self.x509
                .active
                .as_ref()
                .map(|active| active.authority_id.clone())
        );
    }

    /// What signed before the death signs on, or what was about to; nothing left the bundle but what was
    /// revoked; and the bundle vouches for all that was signed until the last moment.
    pub(super) fn check_after(&self, before: &Self, case: &Case, signed: &[Signed]) {
        for kind in Kind::ALL {
            let states = before.states(kind);
            let mut allowed = vec![name(states.active.as_ref())];
            if (case.step, case.kind) == (Step::Activate, kind) {
                allowed.push(name(states.prepared.as_ref()));
            }
            let active = name(self.states(kind).active.as_ref());
            assert!(
                allowed.contains(&active),
                "{case:?}: {active} signs, not {allowed:?}"
            );
        }
        let mut kept = before.published();
        if let (Step::Revoke, Some(old)) = (case.step, &before.states(case.kind).old) {
            kept.remove(&old.authority_id);
            kept.remove(&old.upstream_authority_subject_key_id);
        }
        let published = self.published();
        let gone: Vec<_> = kept.difference(&published).collect();
        assert!(gone.is_empty(), "{case:?}: {gone:?} left the bundle");
        signed.iter().for_each(|signed| self.vouch_for(signed));
    }

    fn vouch_for(&self, signed: &Signed) {
        let now = Clock::system().now();
        let verified = verify_peer(
            &signed.chain,
            Purpose::ClientAuth,
            |_| Some(&self.bundle),
            now,
        );
        assert_eq!(verified.expect("an SVID of the stored bundle").as_str(), ID);
        let valid = jwt::validate(&signed.token, AUDIENCE, |_| Some(&self.bundle), now);
        assert_eq!(valid.expect("a token of the stored bundle").id.as_str(), ID);
    }
}

/// The names of the keys in custody.
fn kept_keys(domain: &Domain) -> Vec<String> {
    let text = std::fs::read(domain.folder().join("server/keys.json")).expect("the keys");
    let keys = identity::key::parse_key_file(&text).expect("a whole file of keys");
    keys.into_keys().collect()
}

async fn bundle(admin: Channel) -> Bundle {
    let answer = BundleClient::new(admin)
        .get_bundle(GetBundleRequest::default())
        .await;
    let message = answer.expect("the bundle").into_inner();
    let mut bundle = Bundle::new(TrustDomain::parse(&message.trust_domain).expect("a name"));
    for authority in message.x509_authorities {
        let certificate = Certificate::parse(&authority.asn1).expect("a certificate");
        bundle.add_x509_authority(X509Authority::new(certificate));
    }
    for key in message.jwt_authorities {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: key.key_id,
            public_key: PublicKey::from_spki_der(&key.public_key).expect("a key"),
            expires_at: None,
            tainted: key.tainted,
        });
    }
    bundle
}

/// An X509-SVID and a JWT-SVID of one moment.
pub(super) struct Signed {
    chain: Vec<Certificate>,
    token: String,
}

/// Has SVIDs signed. Nothing is stored for them.
struct Minter {
    client: SvidClient<Channel>,
    csr: Vec<u8>,
}

impl Minter {
    async fn new(domain: &Domain) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .subject_alt_names
            .push(SanType::URI(ID.try_into().expect("an ID")));
        let key = KeyPair::generate().expect("a key");
        let csr = params.serialize_request(&key).expect("a request");
        Self {
            client: SvidClient::new(admin_channel(&domain.server_socket()).await),
            csr: csr.der().to_vec(),
        }
    }

    async fn mint(&mut self) -> Result<Signed, Status> {
        let request = MintX509svidRequest {
            csr: self.csr.clone().into(),
            ttl: 0,
        };
        let minted = self.client.mint_x509svid(request).await?.into_inner();
        let X509svid { cert_chain, .. } = minted.svid.expect("an SVID");
        let chain = cert_chain.iter().map(|der| Certificate::parse(der));
        let request = MintJwtsvidRequest {
            id: Some(Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: "/minted".to_owned(),
            }),
            audience: vec![AUDIENCE.to_owned()],
            ttl: 0,
        };
        let token = self.client.mint_jwtsvid(request).await?.into_inner();
        Ok(Signed {
            chain: chain.collect::<Result<_, _>>().expect("a chain"),
            token: token.svid.expect("an SVID").token,
        })
    }
}

/// Has SVIDs signed, one after the other, until the server is dead.
pub(super) struct Signing {
    first: Signed,
    rest: JoinHandle<Vec<Signed>>,
}

impl Signing {
    pub(super) async fn begin(domain: &Domain) -> Self {
        let mut minter = Minter::new(domain).await;
        let first = minter.mint().await.expect("the server signs");
        #[expect(clippy::disallowed_methods, reason = "joined by `end`")]
        let rest = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Ok(signed) = minter.mint().await {
                all.push(signed);
            }
            all
        });
        Self { first, rest }
    }

    /// All that was signed. The server is dead.
    pub(super) async fn end(self) -> Vec<Signed> {
        let mut all = self.rest.await.expect("it ends with the server");
        all.push(self.first);
        all
    }
}
