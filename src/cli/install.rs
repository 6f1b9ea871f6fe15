//! `pgbaton install`: puts this program where PostgreSQL's container finds it. That container's image has no pgbaton in it, and stays as
//! it is.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{End, checks};
use crate::guard::prepare::random_hex;

/// This program, even after its file was replaced.
const OURSELVES: &str = "/proc/self/exe";
/// Its name in the directory.
const PROGRAM: &str = "pgbaton";
/// Whoever shares the directory may run it.
const MODE: u32 = 0o755;

/// `pgbaton install`.
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// The directory, shared with PostgreSQL's container (an emptyDir)
    #[arg(value_parser = checks::path_value)]
    dir: PathBuf,
}

/// The program could not be put there.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot install this program as {path}: {reason}. Nothing was started: PostgreSQL's container would have no guard, or an old one. \
     Mount an emptyDir at {dir} here, where user {user} may write, and in PostgreSQL's container"
)]
pub(super) struct NotInstalled {
    path: PathBuf,
    dir: PathBuf,
    user: u32,
    reason: io::Error,
}

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Installed {
    /// It was not there, or another one.
    Put,
    /// It was there already.
    Same,
}

/// Runs the command.
pub(super) fn run(args: &InstallArgs) -> anyhow::Result<End> {
    let path = args.dir.join(PROGRAM);
    match install(&args.dir)? {
        Installed::Put => println!("pgbaton install: installed {}", path.display()),
        Installed::Same => println!("pgbaton install: {} is there already", path.display()),
    }
    Ok(End::Done)
}

/// Puts this program into `dir`. Whole or not at all: the guard's container may start at any moment.
///
/// # Errors
/// When it cannot be put there; what was there is as it was.
pub(super) fn install(dir: &Path) -> Result<Installed, NotInstalled> {
    let path = dir.join(PROGRAM);
    put(Path::new(OURSELVES), dir, &path).map_err(|reason| NotInstalled {
        path,
        dir: dir.to_owned(),
        user: nix::unistd::geteuid().as_raw(),
        reason,
    })
}

fn put(program: &Path, dir: &Path, path: &Path) -> io::Result<Installed> {
    let mut program = File::open(program)?;
    if is_same(&mut program, path)? {
        return Ok(Installed::Same);
    }
    program.rewind()?;
    let beside = dir.join(format!(".{PROGRAM}.{}.new", random_hex()));
    let put = write_whole(&mut program, &beside)
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| File::open(dir)?.sync_all());
    if put.is_err() {
        // The first error is the one to tell; what is left of the copy is only in the way.
        let _ = fs::remove_file(&beside);
    }
    put.map(|()| Installed::Put)
}

fn write_whole(program: &mut File, beside: &Path) -> io::Result<()> {
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(beside)?;
    io::copy(program, &mut copy)?;
    // The process' umask counts when a file is made.
    copy.set_permissions(Permissions::from_mode(MODE))?;
    copy.sync_all()
}

/// Whether `path` holds these bytes and may be run.
fn is_same(program: &mut File, path: &Path) -> io::Result<bool> {
    let mut there = match File::open(path) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let (ours, theirs) = (program.metadata()?, there.metadata()?);
    if ours.len() != theirs.len() || theirs.permissions().mode() & 0o777 != MODE {
        return Ok(false);
    }
    // In pieces: the whole program would be more than the sidecar's memory.
    let (mut mine, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = program.read(&mut mine)?;
        if read == 0 {
            return Ok(true);
        }
        if there.read_exact(&mut other[..read]).is_err() || mine[..read] != other[..read] {
            return Ok(false);
        }
    }
}
