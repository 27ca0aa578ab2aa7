//! The smallest honest server: it signs what it is asked to, for the entries that it was given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream::{self, StreamExt};
use identity::bundle::{Bundle, JwtAuthority, X509Authority};
use identity::entry::{EntriesDigest, Entry, EntryId};
use identity::jwt::JwtSvid;
use identity::selector::{Selector, Selectors};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::Certificate;
use parking_lot::Mutex;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use runtime::clock::Clock;
use tokio::sync::watch;

use super::feed::{Feed, Followed, Part, Piece, Position, Told};
use super::{Code, Denial, EntrySet, Refusal, SigningRequest, Upstream, UpstreamError};

/// When the tests begin.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_800_000_000);

pub(crate) fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + EPOCH
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn selectors(texts: &[&str]) -> Selectors {
    texts
        .iter()
        .map(|text| Selector::parse(text).unwrap())
        .collect()
}

/// An entry named `name`, for callers with these selectors.
pub(crate) fn entry(name: &str, texts: &[&str]) -> Entry {
    Entry {
        id: EntryId::parse(name).unwrap(),
        spiffe_id: SpiffeId::from_path(&trust_domain(), &format!("/{name}")).unwrap(),
        parent_id: SpiffeId::from_path(&trust_domain(), "/spire/agent/join_token/t").unwrap(),
        selectors: selectors(texts),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: std::collections::BTreeSet::new(),
        admin: false,
        downstream: false,
        expires_at: None,
        dns_names: Vec::new(),
        store_svid: false,
        hint: None,
        revision: 0,
        created_at: epoch(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

/// A signing authority.
pub(crate) struct Ca {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: Certificate,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names.push(uri("spiffe://example.org"));
        let certificate = Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Signs an X509-SVID for the key of a request.
    pub(crate) fn sign(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        from: SystemTime,
        ttl: Duration,
    ) -> Vec<Certificate> {
        vec![self.certify(csr, leaf(id.as_str(), from, ttl))]
    }

    /// Certifies the key of a request.
    pub(super) fn certify(&self, csr: &[u8], params: CertificateParams) -> Certificate {
        let mut request = CertificateSigningRequestParams::from_der(&csr.to_vec().into()).unwrap();
        request.params = params;
        Certificate::parse(request.signed_by(&self.issuer).unwrap().der()).unwrap()
    }
}

/// What an X509-SVID says.
pub(super) fn leaf(id: &str, from: SystemTime, ttl: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names.push(uri(id));
    params.not_before = from.into();
    params.not_after = (from + ttl).into();
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(crate) fn bundle(authorities: &[&Certificate]) -> Bundle {
    let mut bundle = Bundle::new(trust_domain());
    let new = |certificate: &&Certificate| X509Authority::new((*certificate).clone());
    bundle.x509_authorities = authorities.iter().map(new).collect();
    bundle
}

/// A JWT-SVID whose signature is noise: the agent takes tokens from its server as they are.
pub(crate) fn jwt(
    id: &SpiffeId,
    audience: &[String],
    from: SystemTime,
    ttl: Duration,
    n: usize,
) -> JwtSvid {
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let header = r#"{"alg":"ES256","kid":"key-1","typ":"JWT"}"#;
    let claims = serde_json::json!({
        "sub": id.to_string(), "aud": audience, "iat": seconds(from), "exp": seconds(from + ttl), "n": n,
    });
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = format!(
        "{}.{}.{}",
        part(header),
        part(&claims.to_string()),
        URL_SAFE_NO_PAD.encode([7; 64])
    );
    JwtSvid::parse_unverified(&token).unwrap()
}

/// How the server behaves at the moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Mood {
    #[default]
    Serving,
    /// Nobody answers.
    Gone,
    Denying(Denial),
    /// The connection stands, and nothing comes back until the mood changes.
    Silent,
}

/// The server.
pub(crate) struct FakeServer {
    pub(crate) clock: Clock,
    pub(crate) ttl: Duration,
    /// How long before it was signed an SVID begins to be valid.
    backdate: Duration,
    world: Arc<Mutex<World>>,
    mood: watch::Sender<Mood>,
    pub(crate) signed: AtomicUsize,
    pub(crate) batches: AtomicUsize,
    pub(crate) tokens: AtomicUsize,
    /// How often it was asked for entries or bundles.
    pub(crate) asked: AtomicUsize,
    /// How often its feed was opened, and how often just resumed.
    pub(crate) follows: AtomicUsize,
    pub(crate) resumed: AtomicUsize,
    pub(crate) renewals: watch::Sender<()>,
    revision: watch::Sender<u64>,
}

struct World {
    feed: FeedKind,
    versions: BTreeMap<u64, Version>,
    entries: BTreeMap<EntryId, Arc<Entry>>,
    ca: Ca,
    bundle: Bundle,
    federated: BTreeMap<TrustDomain, Bundle>,
}

impl FakeServer {
    pub(crate) fn new(clock: Clock, ttl: Duration) -> Arc<Self> {
        Self::backdating(clock, ttl, Duration::ZERO)
    }

    pub(crate) fn backdating(clock: Clock, ttl: Duration, backdate: Duration) -> Arc<Self> {
        let ca = Ca::new();
        let bundle = bundle(&[&ca.certificate]);
        let world = World {
            feed: FeedKind::None,
            versions: BTreeMap::new(),
            entries: BTreeMap::new(),
            ca,
            bundle,
            federated: BTreeMap::new(),
        };
        let server = Arc::new(Self {
            clock,
            ttl,
            backdate,
            world: Arc::new(Mutex::new(world)),
            mood: watch::Sender::default(),
            signed: AtomicUsize::new(0),
            batches: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            follows: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            renewals: watch::Sender::new(()),
            revision: watch::Sender::new(0),
        });
        server.change(|_| ());
        server
    }

    /// Changes what the server serves, and lets its feeds know.
    fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world.lock();
        change(&mut world);
        let revision = *self.revision.borrow() + 1;
        let version = Version {
            entries: world.entries.clone(),
            own: world.bundle.clone(),
            federated: world.federated.clone(),
        };
        world.versions.insert(revision, version);
        self.revision.send_replace(revision);
    }

    pub(crate) fn set_feed(&self, feed: FeedKind) {
        self.world.lock().feed = feed;
    }

    /// All connections break, and others can be made.
    pub(crate) async fn restart(&self) {
        self.set_mood(Mood::Gone);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.set_mood(Mood::Serving);
    }

    pub(crate) fn set_entries(&self, entries: impl IntoIterator<Item = Entry>) {
        let entries = entries.into_iter();
        let entries = entries.map(|entry| (entry.id.clone(), Arc::new(entry)));
        self.change(|world| world.entries = entries.collect());
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn own_bundle(&self) -> Bundle {
        self.world.lock().bundle.clone()
    }

    /// Signs with a new authority from now on, which is in the bundle that is fetched next.
    pub(crate) fn rotate(&self) {
        self.change(|world| {
            world.ca = Ca::new();
            let added = X509Authority::new(world.ca.certificate.clone());
            world.bundle.x509_authorities.push(added);
            world.bundle.sequence += 1;
        });
    }

    /// Marks all authorities but the newest as compromised.
    pub(crate) fn taint(&self) {
        self.change(|world| {
            let (_, old) = world.bundle.x509_authorities.split_last_mut().unwrap();
            old.iter_mut()
                .for_each(|authority| authority.tainted = true);
            world.bundle.sequence += 1;
        });
    }

    /// Takes all authorities but the newest out of the bundle.
    pub(crate) fn revoke(&self) {
        self.change(|world| {
            let newest = world.bundle.x509_authorities.pop().unwrap();
            world.bundle.x509_authorities = vec![newest];
            world.bundle.sequence += 1;
        });
    }

    pub(crate) fn set_jwt_authority(&self, key_id: Option<&str>, tainted: bool) {
        self.change(|world| {
            let public_key = world.ca.certificate.public_key().clone();
            let authority = key_id.map(|key_id| JwtAuthority {
                key_id: key_id.to_owned(),
                public_key,
                expires_at: None,
                tainted,
            });
            world.bundle.jwt_authorities = authority.into_iter().collect();
            world.bundle.sequence += 1;
        });
    }

    pub(crate) fn empty_bundle(&self) {
        self.change(|world| world.bundle.x509_authorities.clear());
    }

    pub(crate) fn federate(&self, trust_domain: &TrustDomain) {
        let mut bundle = bundle(&[&Ca::new().certificate]);
        bundle.trust_domain = trust_domain.clone();
        self.change(|world| {
            world.federated.insert(trust_domain.clone(), bundle);
        });
    }

    async fn mood(&self) -> Result<(), UpstreamError> {
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Silent).await.unwrap();
        match mood {
            Mood::Serving => Ok(()),
            Mood::Denying(denial) => Err(UpstreamError::Denied(denial)),
            Mood::Gone | Mood::Silent => {
                Err(UpstreamError::Unavailable("connection refused".into()))
            }
        }
    }
}

impl Upstream for FakeServer {
    async fn sync_entries(&self, known: &EntrySet) -> Result<EntrySet, UpstreamError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.mood().await?;
        let entries = self.world.lock().entries.clone();
        let current = |entry: Arc<Entry>| {
            known
                .current(&entry.id, entry.revision, Some(entry.created_at))
                .cloned()
                .unwrap_or(entry)
        };
        Ok(entries.into_values().map(current).collect())
    }

    async fn bundle(&self, of: &TrustDomain) -> Result<Option<Bundle>, UpstreamError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.mood().await?;
        let world = self.world.lock();
        Ok(if *of == trust_domain() {
            Some(world.bundle.clone())
        } else {
            world.federated.get(of).cloned()
        })
    }

    async fn sign_x509(
        &self,
        requests: Vec<SigningRequest>,
    ) -> Result<Vec<Result<Vec<Certificate>, Refusal>>, UpstreamError> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.mood().await?;
        let world = self.world.lock();
        let sign = |request: SigningRequest| {
            let entry = world.entries.get(&request.entry_id);
            let entry = entry.ok_or_else(|| Refusal {
                code: Code("not_found"),
                message: "entry not found or not authorized".to_owned(),
            })?;
            self.signed.fetch_add(1, Ordering::Relaxed);
            Ok(world.ca.sign(
                &request.csr,
                &entry.spiffe_id,
                self.clock.now() - self.backdate,
                self.ttl,
            ))
        };
        Ok(requests.into_iter().map(sign).collect())
    }

    async fn sign_jwt(
        &self,
        entry_id: &EntryId,
        audience: &[String],
    ) -> Result<JwtSvid, UpstreamError> {
        let n = self.tokens.fetch_add(1, Ordering::Relaxed);
        self.mood().await?;
        let world = self.world.lock();
        let entry = world.entries.get(entry_id);
        let entry = entry.ok_or_else(|| UpstreamError::Refused {
            code: Code("not_found"),
            message: "entry not found or not authorized".to_owned(),
        })?;
        Ok(jwt(
            &entry.spiffe_id,
            audience,
            self.clock.now(),
            self.ttl,
            n,
        ))
    }
}

/// Whether the server has a feed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FeedKind {
    /// It is asked for everything.
    None,
    /// It pushes, at most this many entries in a message.
    Pushing { chunk: usize },
    /// It pushes positions that fit nothing.
    Broken,
}

/// How often a feed is heard of at least.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(15);

/// What the server served at one of its revisions.
#[derive(Clone)]
struct Version {
    entries: BTreeMap<EntryId, Arc<Entry>>,
    own: Bundle,
    federated: BTreeMap<TrustDomain, Bundle>,
}

impl Version {
    fn digest(&self) -> EntriesDigest {
        self.entries.values().map(|entry| &**entry).collect()
    }

    /// The change that leads here, in pieces.
    fn since(&self, before: Option<&Self>, revision: u64, feed: FeedKind) -> Vec<Part> {
        let known = |id| before.and_then(|before| before.entries.get(id));
        let new = self
            .entries
            .iter()
            .filter(|(id, entry)| known(id) != Some(entry));
        let mut told: Vec<_> = new
            .map(|(id, entry)| (id.clone(), Told::Entry(Arc::clone(entry))))
            .collect();
        let gone = before.into_iter().flat_map(|before| before.entries.keys());
        told.extend(
            gone.filter(|id| !self.entries.contains_key(id))
                .map(|id| (id.clone(), Told::Removed)),
        );
        let FeedKind::Pushing { chunk } = feed else {
            let position = position(revision, EntriesDigest::default());
            return vec![Part::Piece(Piece {
                told,
                position: Some(position),
                ..Piece::default()
            })];
        };
        let mut pieces: Vec<_> = told
            .chunks(chunk)
            .map(|told| Piece {
                told: told.to_vec(),
                ..Piece::default()
            })
            .collect();
        let mut bundles = self.federated.clone();
        bundles.insert(trust_domain(), self.own.clone());
        pieces.push(Piece {
            bundles: bundles
                .into_iter()
                .map(|(of, bundle)| (of, Some(Arc::new(bundle))))
                .collect(),
            position: Some(position(revision, self.digest())),
            ..Piece::default()
        });
        pieces.into_iter().map(Part::Piece).collect()
    }
}

fn position(revision: u64, digest: EntriesDigest) -> Position {
    Position {
        lineage: b"fake".to_vec(),
        revision,
        digest: digest.to_bytes(),
    }
}

impl Feed for FakeServer {
    async fn follow(&self, held: Option<Position>) -> Result<Option<Followed>, UpstreamError> {
        self.follows.fetch_add(1, Ordering::Relaxed);
        self.mood().await?;
        let feed = self.world.lock().feed;
        if feed == FeedKind::None {
            return Ok(None);
        }
        let at = held.and_then(|held| {
            let world = self.world.lock();
            let mut versions = world.versions.iter().rev();
            let same = versions.find(|(_, version)| version.digest().to_bytes() == held.digest);
            same.map(|(revision, _)| *revision)
        });
        if at.is_some() {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
        let (world, mood, changed) = (
            Arc::clone(&self.world),
            self.mood.subscribe(),
            self.revision.subscribe(),
        );
        let state = (world, mood, changed, at, true);
        let batches = stream::unfold(state, move |state| async move {
            let (world, mut mood, mut changed, at, first) = state;
            let failure = loop {
                let now = *mood.borrow_and_update();
                match now {
                    Mood::Gone => break UpstreamError::Unavailable("connection reset".into()),
                    Mood::Denying(denial) => break UpstreamError::Denied(denial),
                    Mood::Silent => {
                        mood.changed().await.ok()?;
                        continue;
                    }
                    Mood::Serving => {}
                }
                let revision = *changed.borrow_and_update();
                if first || at.is_some_and(|at| at < revision) {
                    let parts = {
                        let world = world.lock();
                        let before = at.and_then(|at| world.versions.get(&at));
                        world.versions[&revision].since(before, revision, feed)
                    };
                    let parts: Vec<_> = parts.into_iter().map(Ok).collect();
                    return Some((parts, (world, mood, changed, Some(revision), false)));
                }
                tokio::select! {
                    _ = mood.changed() => {}
                    _ = changed.changed() => {}
                    () = tokio::time::sleep(KEEPALIVE) => {
                        let parts = vec![Ok(Part::Keepalive)];
                        return Some((parts, (world, mood, changed, at, false)));
                    }
                }
            };
            // The stream ends with this.
            mood.mark_unchanged();
            Some((vec![Err(failure)], (world, mood, changed, at, false)))
        });
        Ok(Some(Followed {
            resumed: at.is_some(),
            keepalive: KEEPALIVE,
            parts: batches.flat_map(stream::iter).boxed(),
        }))
    }

    fn renewals(&self) -> watch::Receiver<()> {
        self.renewals.subscribe()
    }

    fn hang_up(&self) {}
}
