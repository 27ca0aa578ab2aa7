//! `Debug` for messages that carry a private key or a token: a log line never shows one.
//!
//! The generator leaves these messages out by name (`SECRETS` in the test `generated`).

use std::fmt::{Debug, Formatter, Result};

use crate::csi::NodePublishVolumeRequest;
use crate::records::{SealedJwtSvid, SealedX509Svid};
use crate::spire::agent::delegatedidentity::X509svidWithKey;
use crate::spire::server::agent::CreateJoinTokenRequest;
use crate::spire::types;
use crate::workload;

/// Stands where the secret was, and tells its length.
struct Redacted(usize);

impl Debug for Redacted {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "<{} bytes>", self.0)
    }
}

/// Implements `Debug` with the shown fields as they are and the secret ones as their length.
macro_rules! redact {
    ($message:ty { $($shown:ident),* ; $($secret:ident),+ }) => {
        impl Debug for $message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($secret), &Redacted(self.$secret.len())))+
                    .finish()
            }
        }
    };
}

redact!(workload::X509svid { spiffe_id, hint; x509_svid, x509_svid_key, bundle });
redact!(workload::Jwtsvid { spiffe_id, hint; svid });
redact!(workload::Witsvid { spiffe_id, hint; wit_svid, wit_svid_key });
redact!(workload::ValidateJwtsvidRequest { audience; svid });
redact!(types::Jwtsvid { id, expires_at, issued_at, hint; token });
redact!(types::Witsvid { id, expires_at, issued_at, hint; token });
redact!(NodePublishVolumeRequest { volume_id, target_path, volume_capability, readonly; volume_context });
redact!(X509svidWithKey { x509_svid; x509_svid_key });
redact!(types::JoinToken { expires_at; value });
redact!(types::AttestationData { r#type; payload });
redact!(CreateJoinTokenRequest { ttl, agent_id; token });
redact!(SealedX509Svid { entry_id, revision, created_at, certificate_chain; private_key });
redact!(SealedJwtSvid { entry_id, revision, created_at; token });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_private_key_and_no_token() {
        let svid = workload::X509svid {
            spiffe_id: "spiffe://example.org/web".to_owned(),
            x509_svid_key: vec![1, 2, 3].into(),
            ..Default::default()
        };
        let token = types::JoinToken {
            value: "open-sesame".to_owned(),
            expires_at: 7,
        };
        let shown = format!(
            "{:?} {:?}",
            workload::X509svidResponse {
                svids: vec![svid],
                ..Default::default()
            },
            token
        );

        assert!(shown.contains("spiffe://example.org/web"), "{shown}");
        assert!(shown.contains("x509_svid_key: <3 bytes>"), "{shown}");
        assert!(!shown.contains("sesame"), "{shown}");
    }
}
