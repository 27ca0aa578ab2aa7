//! The open cache: what lies in it, sealed, and what of it has to be written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use identity::spiffe_id::SpiffeId;
use tracing::info;

use super::engine::{Changes, Engine, EngineError, SledEngine};
use super::key;
use super::ledger::{self, Account, Found, Ledger, LedgerError};
use super::place::Place;
use super::records::{CodecError, Item};
use super::seal::{self, Piece, Seal, SealError};

/// After how many writes the size on disk is looked at.
const WRITES_BETWEEN_LOOKS: u32 = 256;

/// Why the cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    #[error("could not use the folder of the sealed cache")]
    Folder(#[source] io::Error),
    #[error("could not use the key of the sealed cache")]
    Key(#[source] io::Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("a record of the sealed cache cannot be unsealed")]
    Seal(#[from] SealError),
    #[error("a record of the sealed cache cannot be read")]
    Record(#[from] CodecError),
    #[error("the sealed cache has records and does not say which format they have")]
    NoFormat,
}

impl VaultError {
    /// The stable label of metrics and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Folder(_) => "cache_folder",
            Self::Key(_) => "cache_key",
            Self::Ledger(error) => error.reason(),
            Self::Engine(_) => "cache_engine",
            Self::Seal(_) => "cache_seal",
            Self::Record(CodecError::Format(_)) => "cache_format",
            Self::Record(_) => "cache_record",
            Self::NoFormat => "cache_format",
        }
    }
}

/// The open cache.
#[derive(Debug)]
pub(super) struct Vault {
    engine: Box<dyn Engine>,
    seal: Seal,
    ledger: Ledger,
    // What lies there, by name.
    known: BTreeMap<Vec<u8>, Known>,
    live: u64,
    writes: u32,
}

#[derive(Debug)]
struct Known {
    item: Item,
    pieces: u16,
    bytes: u64,
}

impl Vault {
    /// Opens the cache of this agent, and reads what is in it; makes it where there is none.
    pub(super) fn open(place: &Place, agent: &SpiffeId) -> Result<(Self, Vec<Item>), VaultError> {
        place.make().map_err(VaultError::Folder)?;
        let key = match key::read(&place.key()).map_err(VaultError::Key)? {
            Some(key) => key,
            None => {
                // What is there without a key was being wiped when the process died.
                if place.db().symlink_metadata().is_ok() {
                    info!("The sealed cache has no key any more: what is left of it is removed");
                }
                place.clear().map_err(VaultError::Folder)?;
                place.make().map_err(VaultError::Folder)?;
                key::create(&place.key()).map_err(VaultError::Key)?
            }
        };
        let engine = SledEngine::open(&place.db())?;
        let seal = Seal::new(&key, agent)?;
        let (known, found) = load(&engine, &seal)?;
        let items = known.values().map(|known| known.item.clone()).collect();
        let vault = Self {
            ledger: Ledger::open(&place.ledger(), &seal, found)?,
            engine: Box::new(engine),
            seal,
            live: known.values().map(|known| known.bytes).sum(),
            known,
            writes: 0,
        };
        Ok((vault, items))
    }

    /// Writes those of the items that lie there otherwise, or not at all.
    pub(super) fn put(&mut self, items: Vec<Item>) -> Result<(), VaultError> {
        self.change(items, &[])
    }

    /// Makes what lies there what it should be. Names that are `busy` are left as they are.
    pub(super) fn reconcile(
        &mut self,
        items: Vec<Item>,
        busy: impl Fn(&[u8]) -> bool,
    ) -> Result<(), VaultError> {
        let wanted: BTreeSet<_> = items
            .iter()
            .chain([&Item::Format])
            .map(Item::name)
            .collect();
        let surplus = self.known.keys().filter(|name| !wanted.contains(*name));
        let surplus = surplus
            .filter(|name| !busy(name))
            .cloned()
            .collect::<Vec<_>>();
        let items = items.into_iter().filter(|item| !busy(&item.name()));
        self.change(items.collect(), &surplus)
    }

    fn change(&mut self, items: Vec<Item>, surplus: &[Vec<u8>]) -> Result<(), VaultError> {
        let mut changes = Changes::new();
        let mut updates = Vec::new();
        let mut values = self.ledger.values();
        for item in [Item::Format].into_iter().chain(items) {
            let name = item.name();
            let known = self.known.get(&name);
            if known.is_some_and(|known| known.item.is_same(&item)) {
                continue;
            }
            let sealed = match self.seal.seal(&name, &item.encode()) {
                Ok(sealed) => sealed,
                // Rather fetched again after a restart than in the way of all others.
                Err(SealError::TooLarge) => continue,
                Err(error) => return Err(error.into()),
            };
            let pieces = u16::try_from(sealed.len()).unwrap_or(u16::MAX);
            let bytes = sealed.iter().map(|(name, value)| size(name, value)).sum();
            let before = known.map_or(0, |known| known.pieces);
            changes.extend(sealed.into_iter().map(|(name, value)| (name, Some(value))));
            changes.extend((pieces..before).map(|index| (seal::piece_name(&name, index), None)));
            values = values + u64::from(pieces) - u64::from(before);
            updates.push((
                name,
                Known {
                    item,
                    pieces,
                    bytes,
                },
            ));
        }
        for name in surplus {
            let pieces = self.known.get(name).map_or(0, |known| known.pieces);
            changes.extend((0..pieces).map(|index| (seal::piece_name(name, index), None)));
            values -= u64::from(pieces);
        }
        if changes.is_empty() {
            return Ok(());
        }
        let account = self.ledger.next(values);
        let (name, sealed) = account.sealed(&self.seal)?;
        changes.push((name, Some(sealed.clone())));
        self.engine.write(changes)?;
        self.ledger.advance(account, &sealed)?;
        for name in surplus {
            let gone = self.known.remove(name);
            self.live -= gone.map_or(0, |known| known.bytes);
        }
        for (name, known) in updates {
            self.live += known.bytes;
            let before = self.known.insert(name, known);
            self.live -= before.map_or(0, |known| known.bytes);
        }
        self.writes += 1;
        if self.writes >= WRITES_BETWEEN_LOOKS {
            self.writes = 0;
            self.engine.tidy(self.live)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.known.contains_key(name)
    }

    /// How large it is on disk.
    pub(super) fn size(&self) -> u64 {
        self.engine.size()
    }
}

/// The pieces of one value, numbered.
type Pieces = Vec<(u16, Piece)>;

/// Reads what the engine has.
fn load(engine: &dyn Engine, seal: &Seal) -> Result<(BTreeMap<Vec<u8>, Known>, Found), VaultError> {
    let mut read: BTreeMap<Vec<u8>, (Pieces, u64)> = BTreeMap::new();
    let mut found = Found::default();
    for (stored_name, sealed) in engine.load()? {
        let (name, index) = seal::split_name(&stored_name).ok_or(CodecError::Name)?;
        let piece = seal.open_piece(&stored_name, &sealed)?;
        if name == ledger::NAME {
            found.record = Some(Account::decode(&[(index, piece)])?);
            continue;
        }
        found.values += 1;
        let (pieces, bytes) = read.entry(name.to_vec()).or_default();
        pieces.push((index, piece));
        *bytes += size(&stored_name, &sealed);
    }
    let mut known = BTreeMap::new();
    for (name, (pieces, bytes)) in read {
        let item = Item::decode(&name, &seal::join(&pieces)?)?;
        let pieces = u16::try_from(pieces.len()).map_err(|_range| SealError::Pieces)?;
        known.insert(
            name,
            Known {
                item,
                pieces,
                bytes,
            },
        );
    }
    if !known.is_empty() && !known.contains_key(&Item::Format.name()) {
        return Err(VaultError::NoFormat);
    }
    Ok((known, found))
}

fn size(name: &[u8], value: &[u8]) -> u64 {
    (name.len() + value.len()) as u64
}
