//! The life of trust bundles in the store.
//!
//! A bundle is written only when it changes, and each change raises its sequence number by one:
//! peers poll for the number, and SPIRE's agents take a bundle with a lower one for older.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use identity::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    trust_domain::TrustDomain,
};
use runtime::failpoint;

use crate::{
    index::Snapshot,
    records::{CodecError, bundles as codec},
    store::{Committed, Expect, Key, Revision, Store, StoreError, Txn},
    writes::{Plan, Takeover},
};

/// How often the server's own bundle is pruned.
pub(crate) const PRUNE_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// How long an authority stays after its end, for peers whose clocks are behind.
const PRUNE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a change is tried against other writers. Each loss means that another one won.
const MAX_TRIES: usize = 64;

/// A bundle as stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) bundle: Bundle,
    pub(crate) revision: Revision,
}

/// Reads the bundle of a trust domain.
pub(crate) async fn read(
    store: &Store,
    trust_domain: &TrustDomain,
) -> Result<Option<Stored>, BundleStoreError> {
    let Some(record) = store.read(&Key::bundle(trust_domain)).await? else {
        return Ok(None);
    };
    let bundle = codec::decode(&record.value).map_err(|source| BundleStoreError::Record {
        trust_domain: trust_domain.clone(),
        source: Box::new(source),
    })?;
    Ok(Some(Stored {
        bundle,
        revision: record.revision,
    }))
}

/// Changes a bundle, whoever else writes to it, and makes the writes of `with` in the same commit.
///
/// `change` tells whether it changed anything; it is called again when another writer came first. If
/// it changed nothing and `with` is empty, nothing is written. A conflict on a key of `with` is the
/// caller's to judge.
pub(crate) async fn update(
    store: &Store,
    trust_domain: &TrustDomain,
    with: &Txn,
    mut change: impl FnMut(&mut Bundle) -> bool,
) -> Result<Updated, BundleStoreError> {
    let key = Key::bundle(trust_domain);
    for _ in 0..MAX_TRIES {
        let stored = read(store, trust_domain).await?;
        let seen = stored.as_ref().map(|stored| stored.revision);
        let is_new = stored.is_none();
        let mut bundle = stored.map_or_else(|| Bundle::new(trust_domain.clone()), |s| s.bundle);
        let changed = change(&mut bundle);
        if changed && !is_new {
            bundle.sequence = bundle.sequence.saturating_add(1);
        }
        failpoint::reach("bundle", "changed");
        let mut txn = with.clone().expect(key.clone(), Expect::seen(seen));
        if changed {
            txn = txn.put(key.clone(), codec::encode(&bundle));
        }
        match store.commit(txn).await? {
            Committed::At(revision) => {
                failpoint::reach("bundle", "stored");
                return Ok(Updated::Made { bundle, revision });
            }
            Committed::Conflict { key: lost } if lost == key => {}
            Committed::Conflict { key } => return Ok(Updated::Conflict { key }),
        }
    }
    Err(BundleStoreError::Contended {
        trust_domain: trust_domain.clone(),
    })
}

/// How an update went.
#[derive(Debug)]
pub(crate) enum Updated {
    /// It is stored, or nothing was to be changed.
    Made { bundle: Bundle, revision: Revision },
    /// An expectation of the caller did not hold.
    Conflict { key: Key },
}

/// Authorities that are to join a bundle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Additions {
    pub(crate) x509: Vec<X509Authority>,
    pub(crate) jwt: Vec<JwtAuthority>,
}

impl Additions {
    /// All authorities of a bundle.
    fn of(bundle: &Bundle) -> Self {
        Self {
            x509: bundle.x509_authorities.clone(),
            jwt: bundle.jwt_authorities.clone(),
        }
    }
}

/// The most JWT authorities of a bundle: every agent holds them all.
const MAX_JWT_AUTHORITIES: usize = 1024;

/// Why an authority does not join a bundle.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NotAppended {
    /// Which of the two a token was signed with could not be told any more, so the one that was there stays.
    #[error("another JWT authority has the key ID {0:?}")]
    KeyIdTaken(String),
    #[error("the bundle has {MAX_JWT_AUTHORITIES} JWT authorities already")]
    Full,
}

impl NotAppended {
    /// A stable label for logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::KeyIdTaken(_) => "key_id_taken",
            Self::Full => "bundle_full",
        }
    }
}

/// Adds the authorities that the bundle lacks. Tells whether there were any.
pub(crate) fn append(bundle: &mut Bundle, additions: &Additions) -> Result<bool, NotAppended> {
    let mut changed = false;
    for authority in &additions.x509 {
        changed |= bundle.add_x509_authority(authority.clone());
    }
    for authority in &additions.jwt {
        match bundle.jwt_authority(&authority.key_id) {
            None if bundle.jwt_authorities.len() >= MAX_JWT_AUTHORITIES => {
                return Err(NotAppended::Full);
            }
            None => {
                bundle.jwt_authorities.push(authority.clone());
                changed = true;
            }
            Some(there) if there.public_key == authority.public_key => {}
            Some(_) => return Err(NotAppended::KeyIdTaken(authority.key_id.clone())),
        }
    }
    Ok(changed)
}

/// What is to be written for our own bundle to have these authorities; the answer is the bundle.
pub(crate) fn append_plan(
    snapshot: &Snapshot,
    additions: &Additions,
) -> Plan<Result<Bundle, NotAppended>> {
    let mut bundle = own_or_new(snapshot);
    match append(&mut bundle, additions) {
        Err(taken) => Plan::Nothing(Err(taken)),
        Ok(false) => Plan::Nothing(Ok(bundle)),
        Ok(true) => {
            bundle.sequence = bundle.sequence.saturating_add(1);
            Plan::Commit(put_own(snapshot, &bundle), Ok(bundle))
        }
    }
}

/// Our own bundle; an empty one if there is none yet.
fn own_or_new(snapshot: &Snapshot) -> Bundle {
    let new = || Bundle::new(snapshot.bundles.own_trust_domain().clone());
    let own = snapshot.bundles.own();
    own.map_or_else(new, |stored| stored.value.clone())
}

/// Writes our own bundle, if the stored one is still what the snapshot shows.
fn put_own(snapshot: &Snapshot, bundle: &Bundle) -> Txn {
    let key = Key::bundle(&bundle.trust_domain);
    let seen = Expect::seen(snapshot.bundles.own().map(|stored| stored.revision));
    Txn::new()
        .expect(key.clone(), seen)
        .put(key, codec::encode(bundle))
}

/// What is to be written for our own bundle to have what the bundle of another server of our trust domain
/// has; the answer is ours, as it is then.
///
/// An authority that is tainted there is so here. The sequence number is never lower than theirs, since
/// whoever reads one bundle and then the other must not take the later one for the older.
pub(crate) fn merge_plan(
    snapshot: &Snapshot,
    theirs: &Bundle,
) -> Plan<Result<(Takeover, Bundle), NotAppended>> {
    let mut bundle = own_or_new(snapshot);
    let grown = match append(&mut bundle, &Additions::of(theirs)) {
        Ok(grown) => grown,
        Err(refused) => return Plan::Nothing(Err(refused)),
    };
    let tainted = taint_as(&mut bundle, theirs);
    let before = bundle.sequence;
    bundle.sequence = before.max(theirs.sequence);
    if grown || tainted {
        bundle.sequence = bundle.sequence.saturating_add(1);
    } else if bundle.sequence == before {
        return Plan::Nothing(Ok((Takeover::Unchanged, bundle)));
    }
    let txn = put_own(snapshot, &bundle);
    Plan::Commit(txn, Ok((Takeover::Updated, bundle)))
}

/// Taints what is tainted in the other bundle: of X.509 every certificate of such a key. Tells whether there was
/// any that was not.
pub(crate) fn taint_as(bundle: &mut Bundle, theirs: &Bundle) -> bool {
    let x509 = theirs.x509_authorities.iter().filter(|a| a.tainted);
    let x509: BTreeSet<_> = x509.map(X509Authority::authority_id).collect();
    let jwt = theirs.jwt_authorities.iter().filter(|a| a.tainted);
    let jwt: BTreeSet<_> = jwt.map(|authority| &authority.key_id).collect();
    let mut changed = false;
    let mut mark = |tainted: &mut bool| changed |= !std::mem::replace(tainted, true);
    for authority in &mut bundle.x509_authorities {
        if x509.contains(&authority.authority_id()) {
            mark(&mut authority.tainted);
        }
    }
    for authority in &mut bundle.jwt_authorities {
        if jwt.contains(&authority.key_id) {
            mark(&mut authority.tainted);
        }
    }
    changed
}

/// Whether a bundle was pruned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pruned {
    Changed,
    Unchanged,
    /// Every authority of a kind has ended; an empty bundle would not be better, so they all stay.
    Refused,
}

/// Drops the authorities that ended more than a day ago; never all of a kind.
pub(crate) fn prune(bundle: &mut Bundle, now: SystemTime) -> Pruned {
    let ended = |end: SystemTime| {
        end.checked_add(PRUNE_AFTER)
            .is_some_and(|limit| limit < now)
    };
    let x509 = |authority: &X509Authority| !ended(authority.certificate.validity().not_after());
    let jwt = |authority: &JwtAuthority| !authority.expires_at.is_some_and(ended);
    let empties = |before: usize, after: usize| before > 0 && after == 0;
    let (x509_before, jwt_before) = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
    let x509_after = bundle.x509_authorities.iter().filter(|a| x509(a)).count();
    let jwt_after = bundle.jwt_authorities.iter().filter(|a| jwt(a)).count();
    if empties(x509_before, x509_after) || empties(jwt_before, jwt_after) {
        return Pruned::Refused;
    }
    bundle.x509_authorities.retain(x509);
    bundle.jwt_authorities.retain(jwt);
    if (x509_before, jwt_before) == (x509_after, jwt_after) {
        Pruned::Unchanged
    } else {
        Pruned::Changed
    }
}

/// Why a bundle could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleStoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("stored bundle of trust domain `{trust_domain}` is damaged")]
    Record {
        trust_domain: TrustDomain,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("bundle of trust domain `{trust_domain}` is changed by others without end")]
    Contended { trust_domain: TrustDomain },
}

impl BundleStoreError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(cause) => cause.reason(),
            Self::Record { .. } => "bundle_record",
            Self::Contended { .. } => "bundle_contended",
        }
    }
}

/// Reads a bundle's record, as watchers see it.
pub(crate) fn from_record(value: &[u8]) -> Result<Bundle, CodecError> {
    codec::decode(value)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use identity::{key::PublicKey, x509::Certificate};
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn own() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn x509(ends: SystemTime) -> X509Authority {
        x509_of(&KeyPair::generate().unwrap(), ends)
    }

    fn x509_of(key: &KeyPair, ends: SystemTime) -> X509Authority {
        let mut params = CertificateParams::default();
        params.not_after = ends.into();
        let certificate = params.self_signed(key).unwrap();
        X509Authority::new(Certificate::parse(certificate.der()).unwrap())
    }

    fn jwt(key_id: &str, ends: SystemTime) -> JwtAuthority {
        let key = KeyPair::generate().unwrap();
        JwtAuthority {
            key_id: key_id.to_owned(),
            public_key: PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap(),
            expires_at: Some(ends),
            tainted: false,
        }
    }

    fn add(bundle: &mut Bundle, x509: Vec<X509Authority>, jwt: Vec<JwtAuthority>) -> bool {
        append(bundle, &Additions { x509, jwt }).unwrap()
    }

    #[tokio::test]
    async fn raises_the_sequence_with_each_change_and_only_then() {
        let store = Store::memory();
        let first = x509(now());
        for (authority, sequence) in [(&first, 0), (&first, 0), (&x509(now()), 1)] {
            let change = |bundle: &mut Bundle| add(bundle, vec![authority.clone()], vec![]);
            let outcome = update(&store, &own(), &Txn::new(), change).await.unwrap();
            let Updated::Made { bundle, .. } = outcome else {
                panic!("conflict")
            };
            assert_eq!(bundle.sequence, sequence);
            assert_eq!(read(&store, &own()).await.unwrap().unwrap().bundle, bundle);
        }
        assert_eq!(store.snapshot().await.unwrap().0, Revision::new(2));
    }

    #[test]
    fn a_taint_of_another_bundle_marks_every_certificate_of_its_key() {
        let key = KeyPair::generate().unwrap();
        let (one, other) = (x509_of(&key, now()), x509_of(&key, now() + DAY));
        let mut ours = Bundle::new(own());
        add(&mut ours, vec![one.clone(), other, x509(now())], vec![]);
        let mut theirs = Bundle::new(own());
        let tainted = true;
        theirs.add_x509_authority(X509Authority { tainted, ..one });
        assert!(taint_as(&mut ours, &theirs));
        let marks = ours.x509_authorities.iter().map(|a| a.tainted);
        assert_eq!(marks.collect::<Vec<_>>(), [true, true, false]);
        assert!(!taint_as(&mut ours, &theirs), "nothing new");
    }

    #[tokio::test]
    async fn loses_no_authority_when_many_append_at_once() {
        let store = Store::memory();
        let authorities: Vec<_> = (0..16).map(|n| jwt(&n.to_string(), now())).collect();
        let appends = authorities.iter().map(|authority| async {
            update(&store, &own(), &Txn::new(), |bundle| {
                add(bundle, vec![], vec![authority.clone()])
            })
            .await
        });
        assert!(
            futures_util::future::join_all(appends)
                .await
                .iter()
                .all(Result::is_ok)
        );
        let bundle = read(&store, &own()).await.unwrap().unwrap().bundle;
        assert_eq!((bundle.jwt_authorities.len(), bundle.sequence), (16, 15));
    }

    #[test]
    fn a_full_bundle_takes_no_new_jwt_authority_and_still_knows_those_it_has() {
        let mut bundle = Bundle::new(own());
        let of = |jwt: &JwtAuthority| Additions {
            jwt: vec![jwt.clone()],
            ..Additions::default()
        };
        let mut key = jwt("0", now());
        for n in 0..MAX_JWT_AUTHORITIES {
            key.key_id = n.to_string();
            assert_eq!(append(&mut bundle, &of(&key)), Ok(true));
        }
        assert_eq!(append(&mut bundle, &of(&key)), Ok(false));
        key.key_id = "one more".to_owned();
        assert_eq!(append(&mut bundle, &of(&key)), Err(NotAppended::Full));
    }

    #[test]
    fn drops_authorities_a_day_after_their_end() {
        let mut bundle = Bundle::new(own());
        let kept = [x509(now()), x509(now() - DAY + Duration::from_secs(1))];
        add(
            &mut bundle,
            kept.to_vec(),
            vec![jwt("live", now()), jwt("dead", now() - DAY * 2)],
        );
        add(
            &mut bundle,
            vec![x509(now() - DAY - Duration::from_secs(1))],
            vec![],
        );
        assert_eq!(prune(&mut bundle, now()), Pruned::Changed);
        assert_eq!(bundle.x509_authorities, kept);
        assert_eq!(bundle.jwt_authorities.len(), 1);
        assert_eq!(prune(&mut bundle, now()), Pruned::Unchanged);
    }

    #[test]
    fn never_prunes_a_bundle_to_nothing() {
        let mut bundle = Bundle::new(own());
        add(
            &mut bundle,
            vec![x509(now() - DAY * 2)],
            vec![jwt("live", now()), jwt("dead", now() - DAY * 2)],
        );
        let before = bundle.clone();
        assert_eq!(prune(&mut bundle, now()), Pruned::Refused);
        assert_eq!(bundle, before);
    }
}
