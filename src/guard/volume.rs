//! The volume before the guard's start: what the init container of people's own manifests did, as far as it is still to be done. It clones
//! nothing and writes nothing into PGDATA: that is done on order.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::unistd::{AccessFlags, access, getuid};

use super::prepare::{STATE_DIR, User, data_place, give, give_tree, make_dir, real_path, whom};

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Asked {
    /// PGDATA.
    pub pgdata: PathBuf,
    /// Where `archive_command` copies to; none: `archive` beside PGDATA.
    pub archive_dir: Option<PathBuf>,
    /// PostgreSQL's user, when this runs as root.
    pub user: String,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The archive directory.
    pub archive: PathBuf,
    /// It was not there before.
    pub made: bool,
    /// Whose it is.
    pub user: u32,
}

/// Checks that the guard can work here, and makes the archive directory.
///
/// # Errors
/// What does not hold, and what to change. Nothing was changed then.
pub fn prepare_volume(asked: &Asked) -> anyhow::Result<Prepared> {
    let (pgdata, parent) = data_place(&asked.pgdata)?;
    ensure!(
        parent.is_dir(),
        "{} is not there, so the volume of PGDATA {} is not mounted in this container: mount it as in PostgreSQL's container",
        parent.display(),
        pgdata.display()
    );
    let archive = archive_place(asked, &pgdata, &parent)?;
    let user = whom(&asked.user)?;
    check_writable(&parent, user.as_ref())?;
    let made = !archive.is_dir();
    if !made && user.is_none() {
        check_writable(&archive, None)?;
    }
    if let Some(user) = &user
        && fs::metadata(&parent)?.uid() == 0
    {
        give(&parent, user)?;
    }
    make_dir(&archive, 0o700)?;
    if let Some(user) = &user {
        give_tree(&archive, user)?;
    }
    let user = user.map_or_else(|| getuid().as_raw(), |user| user.uid);
    Ok(Prepared { archive, made, user })
}

fn archive_place(asked: &Asked, pgdata: &Path, parent: &Path) -> anyhow::Result<PathBuf> {
    let told = asked
        .archive_dir
        .clone()
        .unwrap_or_else(|| parent.join("archive"));
    ensure!(
        told.is_absolute(),
        "--archive-dir (PGBATON_ARCHIVE_DIR) is '{}': give the absolute path that archive_command copies to",
        told.display()
    );
    let archive = real_path(&told)?;
    ensure!(
        !archive.starts_with(pgdata) && !archive.starts_with(parent.join(STATE_DIR)) && archive != parent,
        "--archive-dir (PGBATON_ARCHIVE_DIR) {} is PGDATA, pgbaton's own directory, in one of them, or the one that holds them: name \
         another directory, as in {}",
        archive.display(),
        parent.join("archive").display()
    );
    ensure!(
        archive.is_dir() || fs::symlink_metadata(&archive).is_err(),
        "the archive directory {} is there and is not a directory: move it away, or name another one with --archive-dir",
        archive.display()
    );
    Ok(archive)
}

/// Whether PostgreSQL's user can make files in `path`. What is root's is given to the user, by whoever is root.
fn check_writable(path: &Path, user: Option<&User>) -> anyhow::Result<()> {
    let meta = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let (uid, may) = match user {
        None => {
            let may = access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
            (getuid().as_raw(), may)
        }
        Some(user) => {
            let bits = if meta.uid() == user.uid {
                6
            } else if user.groups.contains(&meta.gid()) {
                3
            } else {
                0
            };
            let wanted = 0o3 << bits;
            (user.uid, meta.uid() == 0 || meta.mode() & wanted == wanted)
        }
    };
    ensure!(
        may,
        "user {uid} may not write in {} (of {}:{}, mode {:04o}): pgbaton keeps its state beside PGDATA there, and replaces PGDATA by \
         renaming. Nothing was changed. Give the volume to that user (fsGroup), name PostgreSQL's user with --user (PGBATON_USER), or \
         start this container as root",
        path.display(),
        meta.uid(),
        meta.gid(),
        meta.permissions().mode() & 0o7777
    );
    Ok(())
}
