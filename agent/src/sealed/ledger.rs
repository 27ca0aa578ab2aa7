//! How far the cache has come, told in two places: by a record among the others, and by a file beside the
//! engine.
//!
//! The engine opens a file that was cut off without a word, at an older state or with less in it, and what it
//! then holds may have been withdrawn since. So each writing is numbered and says how many values there are.
//! The file is written after the engine has the writing: the records are never behind it, unless some were lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::engine::Stored;
use super::seal::{self, Piece, Seal, SealError};

/// The name of the record, and what the file is sealed under. No item has it.
pub(super) const NAME: &[u8] = b"l";
/// More than the file ever has.
const MAX_BYTES: u64 = 256;

/// Why what lies there is not all that was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("could not use the ledger of the sealed cache")]
    File(#[source] io::Error),
    #[error("the ledger of the sealed cache cannot be unsealed")]
    Seal(#[from] SealError),
    #[error("the ledger of the sealed cache has another form than this program gives it")]
    Form,
    #[error("the ledger of the sealed cache is missing")]
    Missing,
    #[error("the sealed cache has {found} values, and {written} were written")]
    Lost { found: u64, written: u64 },
    #[error("the sealed cache is of its writing {found}, and {written} was the last")]
    Older { found: u64, written: u64 },
}

impl LedgerError {
    /// The stable label of metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::File(_) => "cache_folder",
            Self::Seal(_) => "cache_seal",
            Self::Form => "cache_format",
            Self::Missing | Self::Lost { .. } | Self::Older { .. } => "cache_lost",
        }
    }
}

/// What one writing says of itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Account {
    /// Its number; the first one is 1.
    pub(super) writing: u64,
    /// How many values lie there after it, itself left out.
    pub(super) values: u64,
}

impl Account {
    /// Reads the one piece that it was unsealed to.
    pub(super) fn decode(pieces: &[(u16, Piece)]) -> Result<Self, LedgerError> {
        let bytes = seal::join(pieces)?;
        let (writing, rest) = bytes.split_first_chunk().ok_or(LedgerError::Form)?;
        let values = rest.try_into().map_err(|_length| LedgerError::Form)?;
        Ok(Self {
            writing: u64::from_be_bytes(*writing),
            values: u64::from_be_bytes(values),
        })
    }

    /// The record of it, sealed, to be written with what it tells of.
    pub(super) fn sealed(self, seal: &Seal) -> Result<Stored, SealError> {
        let bytes = [self.writing.to_be_bytes(), self.values.to_be_bytes()].concat();
        let sealed = seal.seal(NAME, &bytes)?;
        sealed.into_iter().next().ok_or(SealError::Pieces)
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    last: Account,
}

impl Ledger {
    /// Opens the file, which is made if it is not there, and compares what it says with what was found.
    pub(super) fn open(path: &Path, seal: &Seal, found: Found) -> Result<Self, LedgerError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(LedgerError::File)?;
        let mut content = Vec::new();
        let read = (&mut file).take(MAX_BYTES).read_to_end(&mut content);
        read.map_err(LedgerError::File)?;
        let last = if content.is_empty() {
            None
        } else {
            let piece = seal.open_piece(&seal::piece_name(NAME, 0), &content)?;
            Some(Account::decode(&[(0, piece)])?)
        };
        Ok(Self {
            file,
            last: found.checked(last)?,
        })
    }

    /// What the writing after this one says, if it leaves that many values.
    pub(super) fn next(&self, values: u64) -> Account {
        Account {
            writing: self.last.writing.saturating_add(1),
            values,
        }
    }

    /// How many values lie there.
    pub(super) fn values(&self) -> u64 {
        self.last.values
    }

    /// Notes that the engine has this writing.
    pub(super) fn advance(&mut self, account: Account, sealed: &[u8]) -> Result<(), LedgerError> {
        self.file
            .write_all_at(sealed, 0)
            .map_err(LedgerError::File)?;
        self.last = account;
        Ok(())
    }
}

/// What lies in the engine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// What the record says, if there is one.
    pub(super) record: Option<Account>,
    /// How many values there are beside it.
    pub(super) values: u64,
}

impl Found {
    fn checked(self, file: Option<Account>) -> Result<Account, LedgerError> {
        let record = self.record.unwrap_or_default();
        if self.values != record.values {
            return Err(LedgerError::Lost {
                found: self.values,
                written: record.values,
            });
        }
        match file {
            Some(account) if account.writing > record.writing => Err(LedgerError::Older {
                found: record.writing,
                written: account.writing,
            }),
            // A process that is killed after its first writing leaves no file.
            None if record.writing > 1 => Err(LedgerError::Missing),
            _ => Ok(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use identity::spiffe_id::SpiffeId;

    use super::super::seal::KEY_LEN;
    use super::*;

    fn seal() -> Seal {
        let agent = SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap();
        Seal::new(&[7; KEY_LEN], &agent).unwrap()
    }

    fn found(writing: u64, values: u64) -> Found {
        let record = (writing > 0).then_some(Account { writing, values });
        Found { record, values }
    }

    /// A folder whose ledger is at the second writing, of three values.
    fn at_the_second_writing() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::open(&path, &seal(), found(0, 0)).unwrap();
        for values in [1, 3] {
            let account = ledger.next(values);
            let (_, sealed) = account.sealed(&seal()).unwrap();
            ledger.advance(account, &sealed).unwrap();
        }
        folder
    }

    #[test]
    fn a_writing_that_the_engine_alone_has_is_taken_and_one_that_it_lost_is_not() {
        let folder = at_the_second_writing();
        let open = |found| Ledger::open(&folder.path().join("ledger"), &seal(), found);
        for whole in [found(2, 3), found(3, 5)] {
            let ledger = open(whole).unwrap();
            assert_eq!(ledger.values(), whole.values);
            let writing = whole.record.unwrap().writing;
            assert_eq!(ledger.next(0).writing, writing + 1);
        }
        for older in [found(0, 0), found(1, 1)] {
            assert!(matches!(open(older), Err(LedgerError::Older { .. })));
        }
        let mut lost = found(2, 3);
        lost.values = 2;
        assert!(matches!(open(lost), Err(LedgerError::Lost { .. })));
        lost.record = None;
        assert!(matches!(open(lost), Err(LedgerError::Lost { .. })));
    }

    #[test]
    fn a_ledger_that_is_gone_is_missed_from_the_second_writing_on() {
        for (writing, is_missed) in [(0, false), (1, false), (2, true), (u64::MAX, true)] {
            let folder = tempfile::tempdir().unwrap();
            let opened = Ledger::open(
                &folder.path().join("ledger"),
                &seal(),
                found(writing, 3 * writing.min(1)),
            );
            assert_eq!(
                matches!(opened, Err(LedgerError::Missing)),
                is_missed,
                "{writing}"
            );
        }
    }

    #[test]
    fn whatever_the_file_holds_it_is_read_whole_or_refused() {
        let folder = at_the_second_writing();
        let path = folder.path().join("ledger");
        let whole = std::fs::read(&path).unwrap();
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Ledger::open(&path, &seal(), found(2, 3))
        };
        for length in 1..whole.len() {
            assert!(open(&whole[..length]).is_err(), "{length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped).is_err(), "{bit}");
        }
        assert!(open(&[0; 4096]).is_err());
        open(&whole).unwrap();
    }
}
