//! Devices that fail, and one that forgets what was not synced.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use crate::store::redb::device::Device;

/// A disk in memory. What was written since the last sync may be lost, in any part.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bytes: Mutex<Bytes>,
    syncs: AtomicUsize,
    fail_writes: AtomicBool,
    fail_syncs: AtomicBool,
    forget_syncs: AtomicBool,
}

#[derive(Debug, Default)]
struct Bytes {
    durable: Vec<u8>,
    seen: Vec<u8>,
    unsynced: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

const SECTOR: usize = 512;

impl Disk {
    pub(super) fn syncs(&self) -> usize {
        self.0.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn fail_writes(&self, fail: bool) {
        self.0.fail_writes.store(fail, Ordering::Relaxed);
    }

    pub(super) fn fail_syncs(&self, fail: bool) {
        self.0.fail_syncs.store(fail, Ordering::Relaxed);
    }

    /// From now on a sync is acknowledged and does nothing: everything after it is at stake.
    pub(super) fn forget_syncs_from_now_on(&self) {
        self.0.forget_syncs.store(true, Ordering::Relaxed);
    }

    /// The disk after a power cut now: of each sector written since the last sync, `keep` decides
    /// whether it arrived. Lengths follow the same luck.
    pub(super) fn after_power_cut(&self, mut keep: impl FnMut() -> bool) -> Self {
        let bytes = self.0.bytes.lock();
        let mut image = bytes.durable.clone();
        for step in &bytes.unsynced {
            match step {
                Step::SetLen(len) if keep() => image.resize(*len, 0),
                Step::SetLen(_) => {}
                Step::Write(offset, data) => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        let at = offset + n * SECTOR;
                        if keep() && at + sector.len() <= image.len() {
                            image[at..at + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        let disk = Self::default();
        *disk.0.bytes.lock() = Bytes {
            durable: image.clone(),
            seen: image,
            unsynced: Vec::new(),
        };
        disk
    }
}

impl Device for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.bytes.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.bytes.lock();
        let start = usize::try_from(offset).unwrap();
        let found = bytes
            .seen
            .get(start..start + into.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(found);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.0.fail_writes.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = self.0.bytes.lock();
        let start = usize::try_from(offset).unwrap();
        if bytes.seen.len() < start + data.len() {
            bytes.seen.resize(start + data.len(), 0);
            bytes.unsynced.push(Step::SetLen(start + data.len()));
        }
        bytes.seen[start..start + data.len()].copy_from_slice(data);
        bytes.unsynced.push(Step::Write(start, data.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.0.fail_writes.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = self.0.bytes.lock();
        let len = usize::try_from(len).unwrap();
        bytes.seen.resize(len, 0);
        bytes.unsynced.push(Step::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.0.fail_syncs.load(Ordering::Relaxed) {
            return Err(io::Error::other("injected: the device lost the write"));
        }
        self.0.syncs.fetch_add(1, Ordering::Relaxed);
        if self.0.forget_syncs.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut bytes = self.0.bytes.lock();
        bytes.durable = bytes.seen.clone();
        bytes.unsynced.clear();
        Ok(())
    }
}
