//! pg_control and postmaster.pid, read directly: they are asked every few milliseconds. The fields used here have had the same place
//! in every version since 9.4.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::core::types::{Lsn, SystemId, Timeline};

/// The cluster's state in pg_control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// Just made.
    Startup,
    /// Shut down cleanly as a primary.
    ShutDown,
    /// Shut down cleanly as a standby.
    ShutDownInRecovery,
    /// On its way down.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// A standby.
    InArchiveRecovery,
    /// Read-write.
    InProduction,
}

/// What the guard reads of pg_control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// The cluster's identity.
    pub system_identifier: SystemId,
    /// The state when it was last written.
    pub state: ControlState,
    /// Start of the latest checkpoint's record.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// Timeline of the latest checkpoint; after a promotion it lags until the next one.
    pub timeline: Timeline,
}

impl Control {
    /// Reads pg_control of this PGDATA.
    ///
    /// # Errors
    /// When it is missing, short or nonsense.
    pub fn read(pgdata: &Path) -> io::Result<Self> {
        let mut head = [0u8; 56];
        File::open(pgdata.join("global/pg_control"))?.read_exact_at(&mut head, 0)?;
        let state = match u32_at(&head, 16) {
            0 => ControlState::Startup,
            1 => ControlState::ShutDown,
            2 => ControlState::ShutDownInRecovery,
            3 => ControlState::ShuttingDown,
            4 => ControlState::InCrashRecovery,
            5 => ControlState::InArchiveRecovery,
            6 => ControlState::InProduction,
            other => {
                return Err(io::Error::other(format!(
                    "pg_control has the unknown state {other}"
                )));
            }
        };
        let control = Self {
            system_identifier: SystemId(u64_at(&head, 0)),
            state,
            checkpoint: Lsn(u64_at(&head, 32)),
            redo: Lsn(u64_at(&head, 40)),
            timeline: Timeline(u32_at(&head, 48)),
        };
        if control.system_identifier.0 == 0 || control.timeline.0 == 0 || control.checkpoint.0 == 0 {
            return Err(io::Error::other("pg_control is not filled in"));
        }
        Ok(control)
    }
}

/// A little-endian number at this offset; zero beyond the end.
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// As `u64_at`, four bytes.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// As `u64_at`, two bytes.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_le_bytes)
}

/// postmaster.pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    /// The postmaster, or a single-user server when negative.
    pub pid: i32,
    /// `starting`, `ready`, `standby`, `stopping`; empty when not written yet.
    pub status: String,
}

impl PidFile {
    /// Reads it; none when it is missing or has no number.
    #[must_use]
    pub fn read(pgdata: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        Some(Self {
            pid,
            status: lines.nth(6).unwrap_or_default().trim().to_owned(),
        })
    }

    /// The server says that it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.status == "ready" || self.status == "standby"
    }
}

/// The major version in PG_VERSION.
#[must_use]
pub fn major_version(pgdata: &Path) -> Option<u32> {
    std::fs::read_to_string(pgdata.join("PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}
