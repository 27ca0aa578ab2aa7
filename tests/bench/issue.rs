//! Signing on one core, without any RPC: against the bare signature and verification.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use agent::keys::new_workload_key;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey,
};
use identity::key::KeyAlgorithm;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::Csr;
use runtime::clock::Clock;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use server::authority::{
    self, Authorities, Deps, JwtSvidRequest, Subject, Visible, X509SvidRequest,
};
use server::keys::Keys;
use server::store::Store;

use crate::cost::{Least, ROUNDS, processor};
use crate::table::{Goal, Row};

const CALLS: u32 = 10_000;

/// Different requests, so that no branch of the processor learns one by heart.
pub(crate) const REQUESTS: usize = 256;

/// About as long as what is signed of a leaf.
const MESSAGE: [u8; 400] = [7; 400];

const HOUR: Duration = Duration::from_secs(3_600);

struct Workload {
    id: SpiffeId,
    csr: Vec<u8>,
}

pub(crate) fn rows() -> Vec<Row> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let authorities = runtime.block_on(authorities());
    let now = Clock::system().now();
    let workloads: Vec<Workload> = (0..REQUESTS).map(workload).collect();
    let signing = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let [mut sign, mut verify, mut x509, mut jwt] = [Least::new(); 4];
    for _ in 0..ROUNDS {
        sign.see(bare_signature(&signing));
        verify.see(bare_verification(&signing));
        x509.see(x509_svid(&authorities, &workloads, now));
        jwt.see(jwt_svid(&authorities, &workloads, now));
    }
    let (Least(sign), Least(verify), Least(x509), Least(jwt)) = (sign, verify, x509, jwt);
    vec![
        Row::limit("P-256 signature, 1/S", sign, " us"),
        Row::limit("P-256 verification, 1/V", verify, " us"),
        Row {
            name: "CSR to X509-SVID in process, of 1/(1/S + 1/V)",
            goal: Goal::AtLeast(0.90),
            measured: (sign + verify) / x509,
            unit: "",
            from: format!("{x509:.1} us, {:.0}/s", 1e6 / x509),
        },
        Row {
            name: "JWT-SVID in process, of S",
            goal: Goal::AtLeast(0.95),
            measured: sign / jwt,
            unit: "",
            from: format!("{jwt:.1} us, {:.0}/s", 1e6 / jwt),
        },
    ]
}

/// The microseconds of a signature and of a verification.
pub(crate) fn limits() -> (f64, f64) {
    let signing = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let [mut sign, mut verify] = [Least::new(); 2];
    for _ in 0..ROUNDS {
        sign.see(bare_signature(&signing));
        verify.see(bare_verification(&signing));
    }
    (sign.0, verify.0)
}

async fn authorities() -> Authorities {
    let (trigger, _shutdown) = Shutdown::new();
    let deps = Deps {
        store: Store::memory(),
        keys: Keys::memory(),
        clock: Clock::system(),
        tasks: TaskGroup::new(trigger),
        visible: Visible::at_once(),
    };
    let config = authority::Config::new(TrustDomain::parse("example.org").unwrap());
    Authorities::start(config, deps).await.unwrap()
}

fn workload(at: usize) -> Workload {
    let id = SpiffeId::parse(&format!("spiffe://example.org/ns/default/sa/workload-{at}")).unwrap();
    let csr = new_workload_key(KeyAlgorithm::EcP256, &id).unwrap().csr;
    Workload { id, csr }
}

fn of(workloads: &[Workload], at: usize) -> &Workload {
    workloads.get(at % workloads.len()).unwrap()
}

fn bare_signature(key: &EcdsaKeyPair) -> f64 {
    let random = SystemRandom::new();
    processor(CALLS, |_| {
        black_box(key.sign(&random, black_box(&MESSAGE)).unwrap());
    })
}

// With the key parsed beforehand, which a CSR does not allow: the limit is the bare arithmetic.
fn bare_verification(key: &EcdsaKeyPair) -> f64 {
    let signature = key.sign(&SystemRandom::new(), &MESSAGE).unwrap();
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref()).unwrap();
    processor(CALLS, |_| {
        public
            .verify_sig(black_box(&MESSAGE), signature.as_ref())
            .unwrap();
    })
}

fn x509_svid(authorities: &Authorities, workloads: &[Workload], now: SystemTime) -> f64 {
    processor(CALLS, |at| {
        let Workload { id, csr } = of(workloads, at);
        let csr = Csr::parse_and_verify(csr).unwrap();
        let request = X509SvidRequest {
            id,
            public_key: csr.public_key(),
            dns_names: &[],
            ttl: HOUR,
            subject: Subject::Workload,
            name: None,
        };
        black_box(authorities.sign_x509_svid(&request, now).unwrap());
    })
}

fn jwt_svid(authorities: &Authorities, workloads: &[Workload], now: SystemTime) -> f64 {
    let audience = ["spiffe://example.org/reports".to_owned()];
    processor(CALLS, |at| {
        let request = JwtSvidRequest {
            id: &of(workloads, at).id,
            audience: &audience,
            ttl: HOUR,
            include_jti: false,
        };
        black_box(authorities.sign_jwt_svid(&request, now).unwrap());
    })
}
