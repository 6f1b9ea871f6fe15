//! Write-ahead log as a list of records: equal records at equal places mean equal histories up to there.

use pgbaton::core::types::{Lsn, Position, Timeline};

/// One record. `id` is unique in the world, and a server makes it after a given history: two logs that hold the same
/// record hold the same records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub timeline: u32,
    pub id: u64,
}

pub type Wal = Vec<Entry>;

/// Bytes of a record.
const BYTES: u64 = 0x10;

/// Where the log ends: `pg_current_wal_insert_lsn`, `flush_lsn`.
pub fn end(len: usize) -> Lsn {
    Lsn((len as u64 + 1) * BYTES)
}

/// As `Position` measures: the timeline of the last record and its start.
pub fn position(wal: &Wal) -> Option<Position> {
    let last = wal.last()?;
    Some(Position {
        timeline: Timeline(last.timeline),
        last_record: Lsn(wal.len() as u64 * BYTES),
    })
}

pub fn timeline(wal: &Wal) -> u32 {
    wal.last().map_or(0, |e| e.timeline)
}

/// All of `first` is in `second`.
pub fn is_within(first: &[Entry], second: &[Entry]) -> bool {
    match first.last() {
        None => true,
        Some(last) => second.get(first.len() - 1) == Some(last),
    }
}
