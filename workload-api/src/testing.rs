//! Certificates, tokens and a served socket for the tests of this crate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use identity::bundle::{Bundle, JwtAuthority, X509Authority};
use identity::entry::{EntryId, Hint};
use identity::jwt::JwtSvid;
use identity::key::{PrivateKey, PublicKey};
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, X509Svid};
use prometheus_client::registry::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use runtime::clock::Clock;
use runtime::listen::{Limits, ListenMetrics, Rate, Serve, Share, bind_unix, serve_unix};
use runtime::shutdown::{Reason, Shutdown, ShutdownTrigger};
use runtime::tasks::TaskGroup;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::client::{Endpoint, WorkloadClient};
use crate::fake::FakeSource;
use crate::metrics::Metrics;
use crate::options::SocketOptions;
use crate::routes::{Deps, routes};
use crate::source::{Identity, JwtGrant};

const JWT_KEY_ID: &str = "jwt-key";

/// The authorities of one trust domain.
pub(crate) struct Pki {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) bundle: Arc<Bundle>,
    issuer: Issuer<'static, KeyPair>,
    jwt_key: EcdsaKeyPair,
}

impl Pki {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = authority(&trust_domain);
        let root = params.self_signed(&key).unwrap();
        let jwt_key = KeyPair::generate().unwrap();
        let mut bundle = Bundle::new(trust_domain.clone());
        bundle.add_x509_authority(X509Authority::new(Certificate::parse(root.der()).unwrap()));
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: JWT_KEY_ID.to_owned(),
            public_key: PublicKey::from_spki_der(&jwt_key.subject_public_key_info()).unwrap(),
            expires_at: None,
            tainted: false,
        });
        Self {
            trust_domain,
            bundle: Arc::new(bundle),
            issuer: Issuer::new(params, key),
            jwt_key: EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &jwt_key.serialize_der(),
            )
            .unwrap(),
        }
    }

    pub(crate) fn id(&self, path: &str) -> String {
        format!("{}{path}", self.trust_domain.id())
    }

    pub(crate) fn svid(&self, path: &str) -> X509Svid {
        self.signed(path, &self.issuer, Vec::new())
    }

    fn signed(&self, path: &str, issuer: &Issuer<'_, KeyPair>, rest: Vec<Certificate>) -> X509Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![uri(&self.id(path))];
        let leaf = params.signed_by(&key, issuer).unwrap();
        let mut chain = vec![Certificate::parse(leaf.der()).unwrap()];
        chain.extend(rest);
        let key = PrivateKey::from_pkcs8_der(Zeroizing::new(key.serialize_der())).unwrap();
        X509Svid::new(chain, Arc::new(key)).unwrap()
    }

    /// An identity whose certificate is signed by an intermediate authority, which is sent along.
    pub(crate) fn identity_below_an_intermediate(&self, entry: &str, path: &str) -> Arc<Identity> {
        let key = KeyPair::generate().unwrap();
        let params = authority(&self.trust_domain);
        let intermediate = params.signed_by(&key, &self.issuer).unwrap();
        let rest = vec![Certificate::parse(intermediate.der()).unwrap()];
        Arc::new(Identity::new(
            EntryId::parse(entry).unwrap(),
            None,
            SystemTime::UNIX_EPOCH,
            self.signed(path, &Issuer::new(params, key), rest),
        ))
    }

    /// An identity whose entry was created at that second.
    pub(crate) fn identity(&self, entry: &str, path: &str, hint: &str, age: u64) -> Arc<Identity> {
        Arc::new(Identity::new(
            EntryId::parse(entry).unwrap(),
            (!hint.is_empty()).then(|| Hint::parse(hint).unwrap()),
            SystemTime::UNIX_EPOCH + Duration::from_secs(age),
            self.svid(path),
        ))
    }

    /// A token with these claims beside `sub`, `aud`, `iat` and `exp`, valid for an hour at `now`.
    pub(crate) fn token(&self, path: &str, aud: &Value, now: SystemTime, more: &Value) -> String {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut claims = json!({"sub": self.id(path), "aud": aud, "iat": now, "exp": now + 3600});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": JWT_KEY_ID});
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self
            .jwt_key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn grant(&self, entry: &str, path: &str, hint: &str, aud: &str) -> JwtGrant {
        let token = self.token(path, &json!([aud]), Clock::system().now(), &json!({}));
        JwtGrant {
            entry_id: EntryId::parse(entry).unwrap(),
            hint: (!hint.is_empty()).then(|| Hint::parse(hint).unwrap()),
            created_at: SystemTime::UNIX_EPOCH,
            svid: JwtSvid::parse_unverified(&token).unwrap(),
        }
    }
}

fn authority(trust_domain: &TrustDomain) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&trust_domain.id().to_string())];
    params
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

/// What [`routes`] is handed, and the hand that ends it.
pub(crate) fn deps(clock: Clock) -> (Deps, ShutdownTrigger) {
    let (trigger, shutdown) = Shutdown::new();
    let deps = Deps {
        clock,
        shutdown,
        metrics: Metrics::register(&mut Registry::default()),
    };
    (deps, trigger)
}

/// A Workload API on a real socket, in this process.
pub(crate) struct Served {
    pub(crate) source: Arc<FakeSource>,
    pub(crate) pki: Pki,
    pub(crate) endpoint: Endpoint,
    trigger: ShutdownTrigger,
    _folder: tempfile::TempDir,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::with(SocketOptions::default())
    }

    pub(crate) fn with(options: SocketOptions) -> Self {
        let pki = Pki::new("example.org");
        let source = FakeSource::new(Arc::clone(&pki.bundle));
        let (deps, trigger) = deps(Clock::system());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let bound = bind_unix(&path, 0o777).unwrap();
        let tasks = TaskGroup::new(trigger.clone());
        let serve = Serve {
            limits: Limits {
                drain: Duration::from_secs(30),
                // All clients of a test are one process.
                process: Share::new(4096, 4096, Rate::UNLIMITED),
                ..Limits::workload()
            },
            shutdown: deps.shutdown.clone(),
            tasks: tasks.clone(),
            metrics: ListenMetrics::register(&mut Registry::default()).socket("workload"),
        };
        let routes = routes(Arc::clone(&source), options, deps).unwrap();
        tasks.spawn("workload socket", async move {
            serve_unix(bound, routes, serve).await.unwrap();
        });
        Self {
            source,
            pki,
            endpoint: Endpoint::Unix(path),
            trigger,
            _folder: folder,
        }
    }

    pub(crate) async fn client(&self) -> WorkloadClient {
        WorkloadClient::connect(&self.endpoint).await.unwrap()
    }

    pub(crate) fn shut_down(&self) {
        self.trigger.trigger(Reason::Requested("test"));
    }
}
