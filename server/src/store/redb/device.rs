//! What redb writes to, and a trial of it: nothing reaches the file before it is accepted.
//!
//! redb repairs a file while it opens it. A file that we then refuse (damaged, of a newer format, of
//! another trust domain) must stay as it was, so an open collects its writes in memory, and only
//! `Gate::admit` makes them, in their order, with their syncs.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use redb::StorageBackend;

/// Bytes at offsets; a file, or what a test puts in its place.
pub(super) trait Device: fmt::Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

impl Device for File {
    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A device behind a gate that opens once.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Arc<dyn Device>,
    admitted: AtomicBool,
    trial: Mutex<Trial>,
    sync_failed: AtomicBool,
}

impl Gate {
    pub(super) fn new(device: Arc<dyn Device>) -> io::Result<Self> {
        let len = device.len()?;
        let trial = Trial {
            len,
            kept: len,
            blocks: BTreeMap::new(),
            steps: Vec::new(),
        };
        Ok(Self(Arc::new(Inner {
            device,
            admitted: AtomicBool::new(false),
            trial: Mutex::new(trial),
            sync_failed: AtomicBool::new(false),
        })))
    }

    /// Makes the writes of the trial; from here on writes go to the device.
    pub(super) fn admit(&self) -> io::Result<()> {
        let mut trial = self.0.trial.lock();
        for step in std::mem::take(&mut trial.steps) {
            match step {
                Step::Write(offset, data) => self.0.device.write(offset, &data)?,
                Step::SetLen(len) => self.0.device.set_len(len)?,
                Step::Sync => self.0.sync()?,
            }
        }
        trial.blocks.clear();
        self.0.admitted.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether a sync failed: what the kernel then still holds of the file may differ from the disk.
    pub(super) fn sync_failed(&self) -> bool {
        self.0.sync_failed.load(Ordering::Acquire)
    }
}

impl Inner {
    fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Acquire)
    }

    fn sync(&self) -> io::Result<()> {
        self.device
            .sync()
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }
}

impl StorageBackend for Gate {
    fn len(&self) -> io::Result<u64> {
        if self.0.is_admitted() {
            self.0.device.len()
        } else {
            Ok(self.0.trial.lock().len)
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.is_admitted() {
            return self.0.device.read(offset, out);
        }
        self.0.trial.lock().read(&*self.0.device, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.0.is_admitted() {
            return self.0.device.set_len(len);
        }
        self.0.trial.lock().set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.0.is_admitted() {
            return self.0.sync();
        }
        self.0.trial.lock().steps.push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.0.is_admitted() {
            return self.0.device.write(offset, data);
        }
        self.0.trial.lock().write(&*self.0.device, offset, data)
    }
}

const BLOCK: usize = 4_096;
const BLOCK_U64: u64 = 4_096;

#[derive(Debug)]
struct Trial {
    len: u64,
    /// How much of the device still shows below; a file cut short and extended reads as zeros.
    kept: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Write(u64, Box<[u8]>),
    SetLen(u64),
    Sync,
}

impl Trial {
    fn read(&self, device: &dyn Device, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check_range(offset, out.len())?;
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let (start, length) = span(at, rest.len());
            let (now, later) = rest.split_at_mut(length);
            match self.blocks.get(&(at / BLOCK_U64)) {
                Some(block) => now.copy_from_slice(part(&**block, start, length)?),
                None => self.read_below(device, at, now)?,
            }
            at += length as u64;
            rest = later;
        }
        Ok(())
    }

    fn read_below(&self, device: &dyn Device, at: u64, out: &mut [u8]) -> io::Result<()> {
        let shown = usize::try_from(self.kept.saturating_sub(at))
            .unwrap_or(usize::MAX)
            .min(out.len());
        let (shown, hidden) = out.split_at_mut(shown);
        hidden.fill(0);
        if shown.is_empty() {
            Ok(())
        } else {
            device.read(at, shown)
        }
    }

    fn write(&mut self, device: &dyn Device, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_range(offset, data.len())?;
        self.steps.push(Step::Write(offset, data.into()));
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (start, length) = span(at, rest.len());
            let (now, later) = rest.split_at(length);
            let number = at / BLOCK_U64;
            if !self.blocks.contains_key(&number) {
                let mut block = Box::new([0; BLOCK]);
                self.read_below(device, number * BLOCK_U64, &mut block[..])?;
                self.blocks.insert(number, block);
            }
            let block = self
                .blocks
                .get_mut(&number)
                .and_then(|block| block.get_mut(start..start + length));
            block
                .ok_or(io::ErrorKind::InvalidInput)?
                .copy_from_slice(now);
            at += length as u64;
            rest = later;
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        self.steps.push(Step::SetLen(len));
        self.kept = self.kept.min(len);
        self.len = len;
        // What a cut removes stays removed when the file grows again.
        let boundary = len / BLOCK_U64;
        self.blocks.retain(|number, _| *number <= boundary);
        let tail = usize::try_from(len % BLOCK_U64).unwrap_or(0);
        if let Some(gone) = self
            .blocks
            .get_mut(&boundary)
            .and_then(|block| block.get_mut(tail..))
        {
            gone.fill(0);
        }
    }

    fn check_range(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Where `at` lies in its block, and how much of `length` that block holds.
fn span(at: u64, length: usize) -> (usize, usize) {
    let start = usize::try_from(at % BLOCK_U64).unwrap_or(0);
    (start, length.min(BLOCK - start))
}

fn part(block: &[u8], start: usize, length: usize) -> io::Result<&[u8]> {
    block
        .get(start..start + length)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
