//! The cache under damage, under failures, and with two who write at once.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::cache::tests::{TTL, signed};
use crate::upstream::fake::{self, Ca, entry, epoch};

fn agent() -> SpiffeId {
    SpiffeId::from_path(&fake::trust_domain(), "/spire/agent/x").unwrap()
}

fn open(folder: &Path) -> (SealedCache, Vec<Item>) {
    SealedCache::open(
        folder,
        &agent(),
        Trust::Restored,
        epoch(),
        Metrics::default(),
    )
}

fn items(count: usize) -> Vec<Item> {
    let ca = Ca::new();
    let own = Item::Own(Arc::new(fake::bundle(&[&ca.certificate])));
    let mut items = vec![own];
    for n in 0..count {
        let entry = entry(&format!("e{n}"), &["a:1"]);
        let svid = signed(&ca, &entry, epoch(), TTL).svid;
        items.push(Item::X509 {
            entry_id: entry.id.clone(),
            revision: (0, epoch()),
            svid,
        });
        items.push(Item::Entry(Arc::new(entry)));
    }
    items
}

fn names(items: &[Item]) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = items.iter().map(Item::name).collect();
    names.sort_unstable();
    names
}

/// All files below, the longest first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn what_is_kept_is_found_again_and_is_no_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, found) = open(folder.path());
    assert!(found.is_empty());
    let items = items(20);
    drop(cache.keep(items.clone()).await);
    drop(cache);
    let (_, found) = open(folder.path());
    let mut expected = names(&items);
    expected.insert(0, Item::Format.name());
    expected.sort_unstable();
    assert_eq!(names(&found), expected);
    let key = items.iter().find_map(|item| match item {
        Item::X509 { svid, .. } => Some(svid.key().pkcs8_der().to_vec()),
        _ => None,
    });
    let key = key.unwrap();
    for file in files(folder.path()) {
        let bytes = fs::read(&file).unwrap();
        // The private scalar of a P-256 key lies there.
        let is_shown = bytes.windows(32).any(|window| window == &key[36..68]);
        assert!(!is_shown, "{}", file.display());
    }
}

/// Damages each file in turn at places spread over it, and starts each time.
#[test]
fn whatever_file_is_truncated_or_flipped_the_cache_opens_and_says_what_it_did() {
    let whole = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let kept = items(6);
    {
        // In two writings: what was cut off at the first must not be taken for all.
        let (cache, _) = open(whole.path());
        let (first, second) = kept.split_at(kept.len() / 2);
        drop(runtime.block_on(cache.keep(first.to_vec())));
        drop(runtime.block_on(cache.keep(second.to_vec())));
    }
    let most = places();
    for file in files(whole.path()) {
        let length = fs::metadata(&file).unwrap().len();
        // Where bytes are is where damage can be; beyond it lies what was never written.
        let used = fs::read(&file).unwrap();
        let used = used
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        let step = (used / 64 / most).max(1) * 64;
        for at in (0..used).step_by(step) {
            for flip in [false, true] {
                let left = copy_of(whole.path());
                let damaged = left.path().join(file.strip_prefix(whole.path()).unwrap());
                if flip {
                    let mut bytes = fs::read(&damaged).unwrap();
                    bytes[at] ^= 1 << (at / 64 % 8);
                    fs::write(&damaged, bytes).unwrap();
                } else {
                    let opened = fs::OpenOptions::new().write(true).open(&damaged).unwrap();
                    opened.set_len(at as u64).unwrap();
                }
                let (cache, found) = open(left.path());
                // All that was kept is found, or what is left lies aside: never less, or older, without a word.
                let place = format!("{} at {at} of {length}", damaged.display());
                assert!(found.is_empty() || found.len() == kept.len() + 1, "{place}");
                for item in found.iter().filter(|item| !matches!(item, Item::Format)) {
                    let is_kept = kept.iter().any(|kept| kept.is_same(item));
                    assert!(is_kept, "{place}: {item:?}");
                }
                assert_eq!(found.is_empty(), lies_aside(left.path()) == 1, "{place}");
                // It goes on as a new one would, though a write may be what first meets the damage.
                drop(runtime.block_on(cache.keep(kept.clone())));
                for seconds in [1, 60] {
                    let (all, now) = (kept.clone(), epoch() + Duration::from_secs(seconds));
                    runtime.block_on(cache.reconcile(move || Some(all), now));
                }
                drop(cache);
                let (_, found) = open(left.path());
                assert_eq!(found.len(), kept.len() + 1, "{} at {at}", damaged.display());
            }
        }
    }
}

/// How many caches were set aside.
fn lies_aside(folder: &Path) -> usize {
    let aside = fs::read_dir(folder).unwrap().filter(|item| {
        let name = item.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("cache.corrupt-")
    });
    aside.count()
}

/// At how many places of a file damage is done: a few, or as many as SIGNET_ROUNDS asks for.
#[expect(
    clippy::disallowed_methods,
    reason = "the tests have no `main` of their own"
)]
fn places() -> usize {
    let asked = std::env::var("SIGNET_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(24)
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        for item in fs::read_dir(from).unwrap() {
            let item = item.unwrap();
            let to = to.join(item.file_name());
            if item.file_type().unwrap().is_dir() {
                fs::create_dir(&to).unwrap();
                copy(&item.path(), &to);
            } else {
                fs::copy(item.path(), to).unwrap();
            }
        }
    }
    let left = tempfile::tempdir().unwrap();
    copy(folder, left.path());
    left
}

#[tokio::test]
async fn the_cache_of_another_agent_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, _) = open(folder.path());
    drop(cache.keep(items(1)).await);
    drop(cache);
    let other = SpiffeId::from_path(&fake::trust_domain(), "/spire/agent/y").unwrap();
    let (_, found) = SealedCache::open(
        folder.path(),
        &other,
        Trust::Restored,
        epoch(),
        Metrics::default(),
    );
    assert!(found.is_empty());
    assert_eq!(lies_aside(folder.path()), 1);
}

#[tokio::test]
async fn a_comparison_leaves_alone_what_was_written_since_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, _) = open(folder.path());
    let written = items(1);
    // It is on disk, and the state does not have it yet.
    let ticket = cache.keep(written.clone()).await;
    cache.reconcile(|| Some(Vec::new()), epoch()).await;
    let (inner, held) = (cache.0.clone().unwrap(), written.clone());
    let look = move || {
        // The state gets it after this look.
        drop(ticket);
        Some(Vec::new())
    };
    cache.reconcile(look, epoch()).await;
    let lies_there = |inner: &Inner| match &*inner.door.lock() {
        Door::Open(vault, _) => held.iter().all(|item| vault.has(&item.name())),
        _ => false,
    };
    assert!(lies_there(&inner));
    // Two looks later it is clear that nobody wants it.
    cache.reconcile(|| Some(Vec::new()), epoch()).await;
    assert!(!lies_there(&inner));
}

#[tokio::test]
async fn a_wipe_lets_no_writer_through_until_there_is_an_identity_again() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, _) = open(folder.path());
    drop(cache.keep(items(1)).await);
    cache.wipe();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    drop(cache.keep(items(1)).await);
    cache.reconcile(|| Some(items(1)), epoch()).await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    cache.resume(&agent(), epoch());
    let kept = items(1);
    let looked = kept.clone();
    cache.reconcile(move || Some(looked), epoch()).await;
    drop(cache);
    assert_eq!(open(folder.path()).1.len(), kept.len() + 1);
}

#[tokio::test]
async fn a_bundle_larger_than_the_engine_likes_is_kept_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, _) = open(folder.path());
    let authorities: Vec<_> = (0..100).map(|_| Ca::new()).collect();
    let all: Vec<_> = authorities.iter().map(|ca| &ca.certificate).collect();
    let large = Item::Own(Arc::new(fake::bundle(&all)));
    assert!(large.encode().len() > 32 * 1024);
    drop(cache.keep(vec![large.clone()]).await);
    let small = Item::Own(Arc::new(fake::bundle(&all[..1])));
    drop(cache.keep(vec![large, small.clone()]).await);
    drop(cache);
    let (_, found) = open(folder.path());
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|item| item.is_same(&small)));
}

/// `cargo test … --nocapture` shows what a write costs before a workload sees an SVID.
#[tokio::test]
async fn a_write_ahead_costs_little() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, _) = open(folder.path());
    let all = items(200);
    let started = tokio::time::Instant::now();
    let mut writes = 0_u32;
    for chunk in all.chunks(2) {
        drop(cache.keep(chunk.to_vec()).await);
        writes += 1;
    }
    println!(
        "{:?} for each of {writes} writes",
        started.elapsed() / writes
    );
    drop(cache);
    let started = tokio::time::Instant::now();
    let (_, found) = open(folder.path());
    println!("{:?} to open {} records", started.elapsed(), found.len());
    assert_eq!(found.len(), all.len() + 1);
}
