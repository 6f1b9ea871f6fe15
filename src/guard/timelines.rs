//! Timelines as they lie in pg_wal: which have WAL, and where each left its parent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::core::types::{Lsn, Timeline};

/// A timeline with its ancestors, newest first; each with the location where it began (zero for the first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(pub Vec<(Timeline, Lsn)>);

impl Chain {
    /// The timeline that owns this location.
    #[must_use]
    pub fn owner(&self, at: Lsn) -> Option<Timeline> {
        self.0.iter().find(|(_, begin)| at >= *begin).map(|(t, _)| *t)
    }

    /// The chain of `newest` from its history file. A timeline above 1 without a usable one has no known beginning: none.
    ///
    /// # Errors
    /// When a history file is there and makes no sense.
    pub fn read(pg_wal: &Path, newest: Timeline) -> io::Result<Option<Self>> {
        if newest.0 == 1 {
            return Ok(Some(Self(vec![(newest, Lsn(0))])));
        }
        let text = match fs::read_to_string(pg_wal.join(history_name(newest))) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        // Each line: a parent and where it was left. The next line's timeline begins there.
        let mut begins = Lsn(0);
        let mut chain = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let bad = || io::Error::other(format!("{} has the line '{line}'", history_name(newest)));
            let mut words = line.split_whitespace();
            let parent: u32 = words.next().and_then(|w| w.parse().ok()).ok_or_else(bad)?;
            let left: Lsn = words.next().and_then(|w| w.parse().ok()).ok_or_else(bad)?;
            chain.push((Timeline(parent), begins));
            begins = left;
        }
        if chain.is_empty() {
            // A number barred by pgbaton (invariant 8), not a timeline.
            return Ok(None);
        }
        chain.push((newest, begins));
        chain.reverse();
        Ok(Some(Self(chain)))
    }
}

/// File name of a timeline's history.
#[must_use]
pub fn history_name(timeline: Timeline) -> String {
    format!("{:08X}.history", timeline.0)
}

/// Timelines of which pg_wal holds segments.
///
/// # Errors
/// When pg_wal cannot be read.
pub fn with_segments(pg_wal: &Path) -> io::Result<BTreeSet<Timeline>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(pg_wal)? {
        let name = entry?.file_name();
        if let Some((timeline, _)) = name.to_str().and_then(segment) {
            found.insert(timeline);
        }
    }
    Ok(found)
}

/// Timelines of which pg_wal holds a history file, empty ones too.
///
/// # Errors
/// When pg_wal cannot be read.
pub fn with_history(pg_wal: &Path) -> io::Result<BTreeSet<Timeline>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(pg_wal)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.strip_suffix(".history"))
            .filter(|n| n.len() == 8);
        if let Some(number) = number.and_then(|n| u32::from_str_radix(n, 16).ok()) {
            found.insert(Timeline(number));
        }
    }
    Ok(found)
}

/// Timeline and the two halves of the segment's number, if this is a segment's name.
#[must_use]
pub fn segment(name: &str) -> Option<(Timeline, (u32, u32))> {
    if name.len() != 24
        || !name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    Some((Timeline(part(0)?), (part(8)?, part(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_becomes_a_chain() {
        let dir = tempfile::tempdir().unwrap();
        let text = "1\t0/3000148\tno recovery target specified\n\n3\t0/5000000\tbefore 2000-01-01\n";
        fs::write(dir.path().join("00000004.history"), text).unwrap();
        fs::write(dir.path().join("00000002.history"), "").unwrap();
        let chain = Chain::read(dir.path(), Timeline(4)).unwrap().unwrap();
        assert_eq!(
            chain.0,
            vec![
                (Timeline(4), Lsn(0x0500_0000)),
                (Timeline(3), Lsn(0x0300_0148)),
                (Timeline(1), Lsn(0))
            ]
        );
        assert_eq!(chain.owner(Lsn(0x0300_0147)), Some(Timeline(1)));
        assert_eq!(chain.owner(Lsn(0x0300_0148)), Some(Timeline(3)));
        assert_eq!(chain.owner(Lsn(0x0600_0000)), Some(Timeline(4)));
        assert_eq!(
            Chain::read(dir.path(), Timeline(2)).unwrap(),
            None,
            "a barred number"
        );
        assert_eq!(Chain::read(dir.path(), Timeline(9)).unwrap(), None);
        assert_eq!(
            with_history(dir.path()).unwrap(),
            BTreeSet::from([Timeline(2), Timeline(4)])
        );
        fs::write(dir.path().join("00000005.history"), "x y z\n").unwrap();
        assert!(Chain::read(dir.path(), Timeline(5)).is_err());
    }

    #[test]
    fn only_whole_segments_have_a_segments_name() {
        assert_eq!(segment("00000002000000010000000F"), Some((Timeline(2), (1, 15))));
        for no in [
            "00000002.history",
            "00000001000000000000000A.partial",
            "00000001000000000000000a",
            "archive_status",
        ] {
            assert_eq!(segment(no), None, "{no}");
        }
    }
}
