//! The record under which this member leads, kept in the directory shared with the guard: a sidecar that restarts while the Lease is
//! damaged can still write it back (DESIGN.md section 3). It is worth as much as the guard's permit: both end with the pod.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::core::record::Record;

/// Name of the file.
const FILE: &str = "led.json";
/// Longest file that is read, in bytes; a record fits a Lease.
const MAX_BYTES: u64 = 1 << 20;

/// Keeps the newest record in the file; its writer waits for the disk, nobody waits for it.
#[derive(Debug, Clone)]
pub struct Memory {
    newest: watch::Sender<Option<Box<Record>>>,
}

impl Memory {
    /// A memory in this directory, what it held, and its writer (to be run on a thread that may block).
    #[must_use]
    pub fn open(run_dir: &Path) -> (Self, Option<Box<Record>>, Writer) {
        let path = run_dir.join(FILE);
        let held = read(&path);
        let (newest, wanted) = watch::channel(held.clone());
        (Self { newest }, held, Writer { path, wanted })
    }

    /// Notes what is remembered now. The leader's position and the time it was taken change all the time and are not worth a write.
    pub fn note(&self, led: Option<&Record>) {
        let wanted = led.map(|record| {
            let mut record = Box::new(record.clone());
            record.leader_wal = None;
            record
        });
        self.newest.send_if_modified(|old| {
            let changed = *old != wanted;
            if changed {
                *old = wanted;
            }
            changed
        });
    }
}

/// Writes what is to be remembered.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    wanted: watch::Receiver<Option<Box<Record>>>,
}

impl Writer {
    /// Writes each change until its `Memory` is dropped.
    pub async fn run(mut self) {
        while self.wanted.changed().await.is_ok() {
            let wanted = self.wanted.borrow_and_update().clone();
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || write(&path, wanted.as_deref())).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(path = %self.path.display(), %error, "the record that is led cannot be kept for a restart of this sidecar");
            }
        }
    }
}

fn write(path: &Path, record: Option<&Record>) -> std::io::Result<()> {
    let Some(record) = record else {
        return match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    // No fsync: what counts is gone with the guard's permit when the machine is.
    let new = path.with_extension("new");
    fs::write(&new, record.render())?;
    fs::rename(&new, path)
}

fn read(path: &Path) -> Option<Box<Record>> {
    let fits = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_BYTES);
    let text = fits.then(|| fs::read_to_string(path).ok()).flatten()?;
    match Record::parse(&text) {
        Ok(record) => Some(Box::new(record)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not a record: left aside");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{Availability, Durability, LeaderWal};
    use crate::core::types::{Lsn, Term};

    fn record(term: u64) -> Record {
        let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
        record.term = Term(term);
        record
    }

    #[tokio::test]
    async fn the_newest_record_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, held, writer) = Memory::open(dir.path());
        assert_eq!(held, None);
        let running = tokio::spawn(writer.run());
        memory.note(Some(&record(3)));
        memory.note(Some(&record(4)));
        drop(memory);
        running.await.unwrap();
        let (memory, held, writer) = Memory::open(dir.path());
        assert_eq!(held.as_deref(), Some(&record(4)));
        let mut moved_on = record(4);
        moved_on.leader_wal = Some(LeaderWal {
            lsn: Lsn(1),
            at_unix_ms: 2,
            age_ms: 3,
        });
        memory.note(Some(&moved_on));
        assert!(!writer.wanted.has_changed().unwrap(), "a position is no news");
        let running = tokio::spawn(writer.run());
        memory.note(None);
        drop(memory);
        running.await.unwrap();
        assert_eq!(Memory::open(dir.path()).1, None);
    }

    #[test]
    fn nonsense_is_left_aside() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "{\"version\":99}"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(Memory::open(dir.path()).1, None, "{text}");
        }
    }
}
