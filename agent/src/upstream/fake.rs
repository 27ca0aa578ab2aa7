//! The smallest honest server: it signs what it is asked to, for the entries that it was given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::bundle::{Bundle, X509Authority};
use identity::entry::{Entry, EntryId};
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
    world: Mutex<World>,
    mood: watch::Sender<Mood>,
    pub(crate) signed: AtomicUsize,
    pub(crate) batches: AtomicUsize,
    pub(crate) tokens: AtomicUsize,
}

struct World {
    entries: BTreeMap<EntryId, Arc<Entry>>,
    ca: Ca,
    bundle: Bundle,
    federated: BTreeMap<TrustDomain, Bundle>,
}

impl FakeServer {
    pub(crate) fn new(clock: Clock, ttl: Duration) -> Arc<Self> {
        let ca = Ca::new();
        let bundle = bundle(&[&ca.certificate]);
        let world = World {
            entries: BTreeMap::new(),
            ca,
            bundle,
            federated: BTreeMap::new(),
        };
        Arc::new(Self {
            clock,
            ttl,
            world: Mutex::new(world),
            mood: watch::Sender::default(),
            signed: AtomicUsize::new(0),
            batches: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
        })
    }

    pub(crate) fn set_entries(&self, entries: impl IntoIterator<Item = Entry>) {
        self.world.lock().entries = entries
            .into_iter()
            .map(|entry| (entry.id.clone(), Arc::new(entry)))
            .collect();
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn own_bundle(&self) -> Bundle {
        self.world.lock().bundle.clone()
    }

    /// Signs with a new authority from now on, which is in the bundle that is fetched next.
    pub(crate) fn rotate(&self) {
        let mut world = self.world.lock();
        world.ca = Ca::new();
        let added = X509Authority::new(world.ca.certificate.clone());
        world.bundle.x509_authorities.push(added);
        world.bundle.sequence += 1;
    }

    pub(crate) fn empty_bundle(&self) {
        self.world.lock().bundle.x509_authorities.clear();
    }

    pub(crate) fn federate(&self, trust_domain: &TrustDomain) {
        let mut bundle = bundle(&[&Ca::new().certificate]);
        bundle.trust_domain = trust_domain.clone();
        self.world
            .lock()
            .federated
            .insert(trust_domain.clone(), bundle);
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
            Ok(world
                .ca
                .sign(&request.csr, &entry.spiffe_id, self.clock.now(), self.ttl))
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
