//! What the agent knows across restarts: its own SVID and the bundle of its trust domain.
//!
//! The file `agent-data.json` has the shape of SPIRE's, so that either program can take over the data
//! folder of the other: an agent that attested by a join token cannot attest again. Beside SPIRE's
//! fields it has a checksum, which SPIRE passes over, so that damage is told from content. A file
//! without one is told by the signatures of its certificates.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, CertificateError, LeafError, parse_pem_certificates};
use runtime::files::{self, FileError};
use serde::{Deserialize, Serialize};

mod signatures;

/// The name of the file in `data_dir`.
pub const FILE_NAME: &str = "agent-data.json";

/// More than any chain and bundle need; a larger file is not ours.
const MAX_BYTES: u64 = 4 << 20;

/// The agent's identity and trust as they stand on disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// The agent's X509-SVID, leaf first; empty before the first attestation.
    pub svid: Vec<Certificate>,
    /// The X.509 authorities of the agent's trust domain; empty before the first attestation.
    pub bundle: Vec<Certificate>,
    /// Whether the server lets this agent attest again instead of renewing.
    pub reattestable: bool,
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file or its folder failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is damaged.
    #[error(
        "`{path}` is damaged; restore it from a backup, or remove it and give the agent a new join token",
        path = .path.display()
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: Damage,
    },
    /// The file belongs to an agent of another trust domain.
    #[error(
        "`{path}` belongs to `{found}`, and this agent is configured for the trust domain `{trust_domain}`; \
         correct `trust_domain`, or give this agent a `data_dir` of its own",
        path = .path.display()
    )]
    ForeignTrustDomain {
        path: PathBuf,
        found: SpiffeId,
        trust_domain: TrustDomain,
    },
}

impl StateError {
    /// The stable label of metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(error) => error.reason(),
            Self::Damaged { .. } => "state_damaged",
            Self::ForeignTrustDomain { .. } => "state_foreign_trust_domain",
        }
    }
}

/// What is wrong with the content of the file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it is not the JSON of an agent's state")]
    Json(#[source] serde_json::Error),
    #[error("certificate {index} of `{field}` is not base64 of PEM")]
    Encoding { field: &'static str, index: usize },
    #[error("certificate {index} of `{field}` cannot be read")]
    Certificate {
        field: &'static str,
        index: usize,
        source: CertificateError,
    },
    #[error("the first certificate of `svid` is no agent's")]
    Leaf(#[source] LeafError),
    #[error("`svid` stands without a `bundle`")]
    NoBundle,
    #[error("certificate {index} of `{field}` does not bear the signature of its issuer")]
    Signature { field: &'static str, index: usize },
    #[error("its checksum does not fit")]
    Checksum,
}

/// The shape of SPIRE's file. Byte arrays are base64 of PEM, one certificate each.
///
/// Either program writes the first three whatever they are, so a file without one of them is damaged:
/// a misspelt `svid` must not pass for none.
#[derive(Debug, Deserialize, Serialize)]
struct Json {
    #[serde(deserialize_with = "Option::deserialize")]
    svid: Option<Vec<String>>,
    #[serde(deserialize_with = "Option::deserialize")]
    bundle: Option<Vec<String>>,
    reattestable: bool,
    #[serde(flatten)]
    kept: Kept,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signet_attempt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signet_checksum: Option<String>,
}

/// SPIRE's bookkeeping of rebootstrapping, kept as it was found.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
struct Kept {
    bootstrap_use: i64,
    bootstrap_start_time: String,
    connection_attempts: i64,
}

impl Default for Kept {
    fn default() -> Self {
        // What Go writes for a time that was never set.
        let bootstrap_start_time = "0001-01-01T00:00:00Z".to_owned();
        Self {
            bootstrap_use: 0,
            bootstrap_start_time,
            connection_attempts: 0,
        }
    }
}

impl Json {
    fn new(state: &State, kept: Kept, attempt: Option<String>) -> Self {
        let mut json = Self {
            svid: encode(&state.svid),
            bundle: encode(&state.bundle),
            reattestable: state.reattestable,
            kept,
            signet_attempt: attempt,
            signet_checksum: None,
        };
        json.signet_checksum = Some(json.checksum());
        json
    }

    /// The checksum of everything but the checksum. Lengths stand before texts, so that no two
    /// contents are summed alike.
    fn checksum(&self) -> String {
        let mut sum = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            sum.update(&(bytes.len() as u64).to_be_bytes());
            sum.update(bytes);
        };
        for certificates in [&self.svid, &self.bundle] {
            let certificates = certificates.as_deref().unwrap_or_default();
            add(&(certificates.len() as u64).to_be_bytes());
            certificates.iter().for_each(|text| add(text.as_bytes()));
        }
        add(&[u8::from(self.reattestable)]);
        add(&self.kept.bootstrap_use.to_be_bytes());
        add(self.kept.bootstrap_start_time.as_bytes());
        add(&self.kept.connection_attempts.to_be_bytes());
        if let Some(attempt) = &self.signet_attempt {
            add(attempt.as_bytes());
        }
        hex::encode(sum.finish().as_ref())
    }
}

/// The file, and what it held when it was last read or written.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    state: State,
    kept: Kept,
    attempt: Option<String>,
}

impl StateFile {
    /// Reads the state below `data_dir`. No file is an empty state; a damaged one is an error, and
    /// stays as it is.
    pub fn open(data_dir: &Path, trust_domain: &TrustDomain) -> Result<Self, StateError> {
        let path = data_dir.join(FILE_NAME);
        let Some(content) = files::read_limited(&path, MAX_BYTES)? else {
            return Ok(Self {
                path,
                state: State::default(),
                kept: Kept::default(),
                attempt: None,
            });
        };
        let read = parse(&content).and_then(|parsed| Ok((owner(&parsed.state)?, parsed)));
        match read {
            Ok((Some(found), _)) if !found.is_member_of(trust_domain) => {
                let trust_domain = trust_domain.clone();
                Err(StateError::ForeignTrustDomain {
                    path,
                    found,
                    trust_domain,
                })
            }
            Ok((_, parsed)) => Ok(Self {
                path,
                state: parsed.state,
                kept: parsed.kept,
                attempt: parsed.attempt,
            }),
            Err(source) => Err(StateError::Damaged { path, source }),
        }
    }

    /// What was last read or written.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The attestation that was begun and whose fruit is not kept, by the name that it was begun under.
    pub fn attempt(&self) -> Option<&str> {
        self.attempt.as_deref()
    }

    /// Notes that an attestation begins, beside the state; durable when this returns.
    pub fn begin(&mut self, attempt: String) -> Result<(), StateError> {
        self.replace(self.state.clone(), Some(attempt))
    }

    /// Replaces the state; durable when this returns. On an error the old one stays.
    pub fn write(&mut self, state: State) -> Result<(), StateError> {
        self.replace(state, None)
    }

    fn replace(&mut self, state: State, attempt: Option<String>) -> Result<(), StateError> {
        let json = Json::new(&state, self.kept.clone(), attempt.clone());
        let content = serde_json::to_vec(&json).map_err(|error| StateError::Damaged {
            path: self.path.clone(),
            source: Damage::Json(error),
        })?;
        files::write_private(&self.path, &content)?;
        self.state = state;
        self.attempt = attempt;
        Ok(())
    }

    /// Where the state is kept, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Parses the bytes of an `agent-data.json`; for property tests and fuzzing.
pub fn parse_bytes(content: &[u8]) -> Option<State> {
    parse(content).ok().map(|parsed| parsed.state)
}

/// What stands in the file.
struct Parsed {
    state: State,
    kept: Kept,
    attempt: Option<String>,
}

/// The bytes of an `agent-data.json`; for property tests and fuzzing.
pub fn encode_bytes(state: &State) -> Vec<u8> {
    serde_json::to_vec(&Json::new(state, Kept::default(), None)).unwrap_or_default()
}

fn parse(content: &[u8]) -> Result<Parsed, Damage> {
    let json: Json = serde_json::from_slice(content).map_err(Damage::Json)?;
    let sum = json.signet_checksum.as_ref();
    let has_sum = sum.is_some();
    if sum.is_some_and(|sum| *sum != json.checksum()) {
        return Err(Damage::Checksum);
    }
    let state = State {
        svid: decode("svid", json.svid)?,
        bundle: decode("bundle", json.bundle)?,
        reattestable: json.reattestable,
    };
    // SPIRE writes no checksum. An SVID without a bundle is refused for that, below.
    if !has_sum && !state.bundle.is_empty() {
        signatures::check(&state)?;
    }
    Ok(Parsed {
        state,
        kept: json.kept,
        attempt: json.signet_attempt,
    })
}

/// Whose SVID the state holds.
fn owner(state: &State) -> Result<Option<SpiffeId>, Damage> {
    let Some(leaf) = state.svid.first() else {
        return Ok(None);
    };
    if state.bundle.is_empty() {
        return Err(Damage::NoBundle);
    }
    leaf.spiffe_id().map(Some).map_err(Damage::Leaf)
}

fn decode(
    field: &'static str,
    certificates: Option<Vec<String>>,
) -> Result<Vec<Certificate>, Damage> {
    let mut decoded = Vec::new();
    for (index, text) in certificates.unwrap_or_default().into_iter().enumerate() {
        let pem = BASE64
            .decode(text)
            .ok()
            .and_then(|pem| String::from_utf8(pem).ok());
        let pem = pem.ok_or(Damage::Encoding { field, index })?;
        let found = parse_pem_certificates(&pem).map_err(|source| Damage::Certificate {
            field,
            index,
            source,
        })?;
        let [certificate] = <[_; 1]>::try_from(found).or(Err(Damage::Encoding { field, index }))?;
        decoded.push(certificate);
    }
    Ok(decoded)
}

// SPIRE writes null for an empty list.
fn encode(certificates: &[Certificate]) -> Option<Vec<String>> {
    let encode_one = |certificate: &Certificate| BASE64.encode(certificate.to_pem());
    (!certificates.is_empty()).then(|| certificates.iter().map(encode_one).collect())
}

#[cfg(test)]
mod tests;
