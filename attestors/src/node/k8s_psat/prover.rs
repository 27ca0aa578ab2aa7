//! The agent's half: the token as the kubelet has it in its file now.

use std::path::{Path, PathBuf};

use runtime::files::{self, FileError};

use super::payload::{MAX_PAYLOAD_BYTES, Payload, PayloadError, ServiceAccountToken};

/// Where SPIRE's manifests mount the token.
pub(super) const DEFAULT_TOKEN_PATH: &str = "/var/run/secrets/tokens/spire-agent";

/// A longer file is not a token; with its cluster it has to fit a payload.
const MAX_TOKEN_FILE_BYTES: u64 = (MAX_PAYLOAD_BYTES / 2) as u64;

/// Proves by the token in a file. The kubelet replaces the token at 80 % of its life, so it is read
/// again for every try.
#[derive(Clone, Debug)]
pub struct Prover {
    cluster: String,
    token_path: PathBuf,
}

impl Prover {
    /// Makes the prover of an agent in this cluster.
    #[must_use]
    pub fn new(cluster: String, token_path: Option<PathBuf>) -> Self {
        let token_path = token_path.unwrap_or_else(|| DEFAULT_TOKEN_PATH.into());
        Self {
            cluster,
            token_path,
        }
    }

    /// Where the token is read from.
    #[must_use]
    pub fn token_path(&self) -> &Path {
        &self.token_path
    }

    /// Reads the token, as it is now.
    pub fn payload(&self) -> Result<Payload, ProverError> {
        let content = files::read_limited(&self.token_path, MAX_TOKEN_FILE_BYTES)?
            .ok_or_else(|| ProverError::Missing(self.token_path.clone()))?;
        let Ok(token) = String::from_utf8(content) else {
            return Err(ProverError::NotText(self.token_path.clone()));
        };
        let token = ServiceAccountToken::new(token.trim_ascii().to_owned());
        Ok(Payload::new(self.cluster.clone(), token)?)
    }
}

/// Why there is no evidence. Any of these may be cured by the kubelet a moment later.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// The file cannot be read.
    #[error("could not read the service-account token")]
    File(#[from] FileError),
    /// There is no file.
    #[error(
        "there is no service-account token `{}`; mount a projected token there, or set `token_path`",
        .0.display()
    )]
    Missing(PathBuf),
    /// The file is not text.
    #[error("the service-account token `{}` is not text", .0.display())]
    NotText(PathBuf),
    /// The file is empty, or the cluster has no name.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

impl ProverError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(error) => error.reason(),
            Self::Missing(_) => "token_file_missing",
            Self::NotText(_) => "token_not_text",
            Self::Payload(error) => error.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_token_anew_for_each_try() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let prover = Prover::new("prod".to_owned(), Some(path.clone()));
        assert_eq!(prover.payload().unwrap_err().reason(), "token_file_missing");
        for token in ["one", "two\n"] {
            std::fs::write(&path, token).unwrap();
            let payload = prover.payload().unwrap();
            assert_eq!(payload.token().reveal(), token.trim_end());
            assert_eq!(payload.cluster(), "prod");
        }
    }

    #[test]
    fn a_file_that_is_no_token_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let prover = Prover::new("prod".to_owned(), Some(path.clone()));
        for (content, reason) in [
            (b"".to_vec(), "payload_without_token"),
            (b" \n".to_vec(), "payload_without_token"),
            (vec![0xff], "token_not_text"),
        ] {
            std::fs::write(&path, &content).unwrap();
            assert_eq!(prover.payload().unwrap_err().reason(), reason);
        }
        std::fs::write(&path, vec![b'a'; MAX_PAYLOAD_BYTES]).unwrap();
        assert!(matches!(prover.payload(), Err(ProverError::File(_))));
    }

    #[test]
    fn without_a_path_the_token_is_where_spire_has_it() {
        assert_eq!(
            Prover::new("prod".to_owned(), None).token_path(),
            Path::new("/var/run/secrets/tokens/spire-agent")
        );
    }
}
