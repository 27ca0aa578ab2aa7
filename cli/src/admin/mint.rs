//! `x509 mint` and `jwt mint`.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use agent::keys::new_named_key;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::jwt::JwtSvid;
use identity::key::{KeyAlgorithm, PrivateKey};
use identity::spiffe_id::SpiffeId;
use identity::x509::{Certificate, to_pem};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::svid::svid_client::SvidClient;
use proto::spire::server::svid::{MintJwtsvidRequest, MintX509svidRequest};
use zeroize::Zeroizing;

use super::{connect_to, spiffe_id};
use crate::console::{Console, say, tell};
use crate::failure::Failure;
use crate::files::{Readers, write};
use crate::flags::{Output, Values};
use crate::session::Session;
use crate::{go, json, rpc};

pub(super) async fn x509(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let text = required(values, "spiffeID", "spiffeID must be specified")?;
    let id = SpiffeId::parse(text).map_err(|error| Failure::chain(&error))?;
    let ttl = seconds(values)?;
    let made = new_named_key(KeyAlgorithm::EcP256, &id, values.list("dns"))
        .map_err(|error| Failure::chain(&error).context("unable to generate CSR"))?;
    let channel = connect_to(session, values, MINT).await?;
    let svid = SvidClient::new(channel.clone())
        .mint_x509svid(MintX509svidRequest {
            csr: made.csr.into(),
            ttl,
        })
        .await
        .map_err(|status| rpc::failed(&status).context(MINT))?
        .into_inner()
        .svid
        .unwrap_or_default();
    let bundle = BundleClient::new(channel)
        .max_decoding_message_size(rpc::MAX_ANSWER)
        .get_bundle(GetBundleRequest { output_mask: None })
        .await
        .map_err(|status| rpc::failed(&status).context("unable to get bundle"))?
        .into_inner();
    let roots: Vec<_> = (bundle.x509_authorities.into_iter())
        .map(|authority| authority.asn1)
        .collect();
    let minted = Minted {
        chain: certificates(&svid.cert_chain, "server response missing SVID chain")?,
        roots: certificates(&roots, "server response missing X509 Authorities")?,
        key: &made.key,
    };
    let console = &mut session.console;
    if let Some(leaf) = minted.chain.first()
        && leaf.validity().lifetime() < wanted(values)
    {
        capped(console, "X509-SVID", svid.expires_at);
    }
    match (values.given("write"), values.output()) {
        (Some(folder), _) => minted.save(console, Path::new(folder)),
        (None, Output::Pretty) => {
            minted.print(console);
            Ok(())
        }
        (None, Output::Json) => {
            minted.json(console);
            Ok(())
        }
    }
}

pub(super) async fn jwt(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let text = required(values, "spiffeID", "spiffeID must be specified")?;
    let audience = values.list("audience").to_vec();
    if audience.is_empty() {
        return Err(Failure::new("at least one audience must be specified"));
    }
    let id = spiffe_id(text)?;
    let ttl = seconds(values)?;
    let channel = connect_to(session, values, MINT).await?;
    let answer = SvidClient::new(channel)
        .mint_jwtsvid(MintJwtsvidRequest {
            id: Some(id),
            ttl,
            audience,
        })
        .await
        .map_err(|status| rpc::failed(&status).context(MINT))?
        .into_inner();
    let svid = answer.svid.clone().unwrap_or_default();
    if svid.token.is_empty() {
        return Err(Failure::new("server response missing token"));
    }
    let console = &mut session.console;
    match JwtSvid::parse_unverified(&svid.token) {
        Err(error) => tell!(
            console,
            "Unable to determine JWT-SVID lifetime: {}",
            Failure::chain(&error)
        ),
        Ok(token) => {
            let lifetime =
                (token.issued_at()).and_then(|begin| token.expires_at().duration_since(begin).ok());
            if lifetime.is_some_and(|lifetime| lifetime < wanted(values)) {
                capped(console, "JWT-SVID", svid.expires_at);
            }
        }
    }
    if let Some(path) = values.given("write") {
        let path = cleaned(Path::new(path));
        write(&path, svid.token.as_bytes(), Readers::Owner)
            .map_err(|failure| failure.context("unable to write token"))?;
        say!(console, "JWT-SVID written to {}", path.display());
        return Ok(());
    }
    match values.output() {
        Output::Pretty => say!(console, "{}", svid.token),
        Output::Json => {
            const NAME: &str = ".spire.api.server.svid.v1.MintJWTSVIDResponse";
            say!(console, "{}", json::spire(NAME, &answer)?);
        }
    }
    Ok(())
}

const MINT: &str = "unable to mint SVID";

struct Minted<'a> {
    chain: Vec<Certificate>,
    roots: Vec<Certificate>,
    key: &'a PrivateKey,
}

impl Minted<'_> {
    fn print(&self, console: &mut Console) {
        say!(console, "X509-SVID:\n{}", to_pem(&self.chain));
        let key = self.key.to_pkcs8_pem();
        say!(console, "Private key:\n{}", key.as_str());
        say!(console, "Root CAs:\n{}", to_pem(&self.roots));
    }

    /// Base64 needs no escapes.
    fn json(&self, console: &mut Console) {
        let list = |certificates: &[Certificate]| {
            let texts = certificates
                .iter()
                .map(|certificate| format!("\"{}\"", STANDARD.encode(certificate.der())));
            texts.collect::<Vec<_>>().join(",")
        };
        let key = Zeroizing::new(STANDARD.encode(self.key.pkcs8_der()));
        say!(
            console,
            "{{\"x509_svid\":[{}],\"private_key\":\"{}\",\"root_cas\":[{}]}}",
            list(&self.chain),
            key.as_str(),
            list(&self.roots)
        );
    }

    fn save(&self, console: &mut Console, folder: &Path) -> Result<(), Failure> {
        let key = self.key.to_pkcs8_pem();
        let (chain, roots) = (to_pem(&self.chain), to_pem(&self.roots));
        for (file, text, readers, title, name) in [
            ("svid.pem", &chain, Readers::All, "X509-SVID", "SVID"),
            ("key.pem", &*key, Readers::Owner, "Private key", "key"),
            ("bundle.pem", &roots, Readers::All, "Root CAs", "bundle"),
        ] {
            let path = cleaned(&folder.join(file));
            write(&path, text.as_bytes(), readers)
                .map_err(|failure| failure.context(format_args!("unable to write {name}")))?;
            say!(console, "{title} written to {}", path.display());
        }
        Ok(())
    }
}

fn required<'a>(values: &'a Values, flag: &str, missing: &str) -> Result<&'a str, Failure> {
    values.given(flag).ok_or_else(|| Failure::new(missing))
}

/// The lifetime asked for, rounded up to whole seconds.
fn seconds(values: &Values) -> Result<i32, Failure> {
    const SECOND: i64 = 1_000_000_000;
    let nanos = values.nanos("ttl");
    let seconds = nanos.saturating_add(SECOND - 1) / SECOND;
    i32::try_from(seconds).map_err(|_overflow| {
        Failure::new(format!(
            "invalid value for TTL: overflow converting {seconds} to int32"
        ))
    })
}

fn wanted(values: &Values) -> Duration {
    Duration::from_nanos(u64::try_from(values.nanos("ttl")).unwrap_or(0))
}

/// SPIRE's program says this of every SVID whose lifetime is given; here it must be true.
fn capped(console: &mut Console, kind: &str, expires_at: i64) {
    tell!(
        console,
        "{kind} lifetime was capped shorter than specified ttl; expires {:?}",
        go::unix_rfc3339(expires_at)
    );
}

fn certificates(ders: &[bytes::Bytes], missing: &str) -> Result<Vec<Certificate>, Failure> {
    if ders.is_empty() {
        return Err(Failure::new(missing));
    }
    let parsed = ders.iter().map(|der| Certificate::parse(der));
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::chain(&error).context("unable to read a certificate"))
}

/// Without the components that say nothing, as Go joins paths.
fn cleaned(path: &Path) -> PathBuf {
    path.components()
        .filter(|component| *component != Component::CurDir)
        .collect()
}
