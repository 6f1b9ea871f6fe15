//! Why a guard did not begin to guard, left for the sidecar: the container is gone with its words by then, and people look at the
//! status page first. One small file in the directory that both containers share, of no meaning to anything but that page.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::core::orders::clipped;

/// Name of the file.
const FILE: &str = "refused";
/// Longest text, in bytes.
const LONGEST: usize = 2048;

/// Leaves the reason in the run directory, where that is there already and no part of what the guard keeps: whoever refuses changes
/// nothing of that. What goes wrong here is not told: the reason itself is, in the container's log.
pub fn leave(run_dir: &Path, pgdata: &Path, reason: &str) {
    let Ok(run_dir) = fs::canonicalize(run_dir) else {
        return;
    };
    let state_dir = pgdata.parent().map(|parent| parent.join("pgbaton"));
    let is_kept =
        |path: &Path| run_dir.starts_with(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
    if !run_dir.is_dir() || is_kept(pgdata) || state_dir.is_some_and(|path| is_kept(&path)) {
        return;
    }
    let new = run_dir.join(FILE).with_extension("new");
    let _ = fs::remove_file(&new);
    // A new file, so that a link that lies there is not followed.
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new);
    let written = made.and_then(|mut file| file.write_all(clipped(reason, LONGEST).as_bytes()));
    let _ = written.and_then(|()| fs::rename(&new, run_dir.join(FILE)));
}

/// The guard guards: there is no reason any more.
pub fn clear(run_dir: &Path) {
    let _ = fs::remove_file(run_dir.join(FILE));
}

/// The reason that the last guard left; none: it began.
#[must_use]
pub fn read(run_dir: &Path) -> Option<String> {
    let file = fs::File::open(run_dir.join(FILE)).ok()?;
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_read_back_until_the_guard_begins() {
        let dir = tempfile::tempdir().unwrap();
        let (run, pgdata) = (dir.path().join("run"), dir.path().join("data/pgdata"));
        leave(&run, &pgdata, "no directory");
        assert!(!run.exists() && read(&run).is_none());
        fs::create_dir(&run).unwrap();
        leave(&run, &pgdata, "PGDATA is a mount point\n");
        leave(&run, &pgdata, &"é".repeat(5_000));
        assert!(read(&run).is_some_and(|text| text.starts_with("éé") && text.len() <= LONGEST));
        leave(&run, &pgdata, "PGDATA is a mount point\n");
        assert_eq!(read(&run).as_deref(), Some("PGDATA is a mount point"));
        clear(&run);
        assert_eq!(read(&run), None);
        assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_left_in_what_the_guard_keeps_nor_where_a_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        let pgdata = dir.path().join("pgdata");
        for within in ["pgdata", "pgdata/run", "pgbaton", "pgbaton/run"] {
            let run = dir.path().join(within);
            fs::create_dir_all(&run).unwrap();
            leave(&run, &pgdata, "no");
            assert_eq!(read(&run), None, "{within}");
        }
        let (run, other) = (dir.path().join("run"), dir.path().join("other"));
        fs::create_dir(&run).unwrap();
        fs::write(&other, "mine").unwrap();
        for link in [FILE, "refused.new"] {
            std::os::unix::fs::symlink(&other, run.join(link)).unwrap();
        }
        leave(&run, &pgdata, "no");
        assert_eq!(read(&run).as_deref(), Some("no"));
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    }
}
