//! What must hold before the guard may guard: checked once at start, each refusal with what to change.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::{get_pdeathsig, set_pdeathsig};
use nix::unistd::{Gid, Uid, getuid, setgid, setgroups, setuid};

/// Name of pgbaton's own directory beside PGDATA.
pub const STATE_DIR: &str = "pgbaton";
/// The configuration that the guard starts the server with, in the state directory.
pub const CONFIG_FILE: &str = "postgresql.conf";
/// How long a new guard waits for an old one on the same volume to end.
const OTHER_GUARD: Duration = Duration::from_secs(30);

/// What the guard was started with, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// PGDATA, absolute and without links.
    pub pgdata: PathBuf,
    /// Where state and configuration lie.
    pub state_dir: PathBuf,
    /// Shared with the sidecar.
    pub run_dir: PathBuf,
    /// A user id that may connect, besides root and the guard's own.
    pub peer_uid: Option<u32>,
    /// Home of the user, for the server.
    pub home: Option<PathBuf>,
    /// How long to wait for the sidecar's orders after the stop signal.
    pub stop_timeout: Duration,
    /// PID 1 of its namespace.
    pub is_init: bool,
}

impl Settings {
    /// The configuration file that the server is started with.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.state_dir.join(CONFIG_FILE)
    }

    /// Where a clone is made.
    #[must_use]
    pub fn clone_dir(&self) -> PathBuf {
        self.state_dir.join("clone")
    }

    /// PGDATA moved aside: `<pgdata>.<suffix>`.
    #[must_use]
    pub fn aside(&self, suffix: &str) -> PathBuf {
        let mut name = self.pgdata.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(suffix);
        self.pgdata.with_file_name(name)
    }
}

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Asked {
    /// PGDATA.
    pub pgdata: PathBuf,
    /// Directory of the socket.
    pub run_dir: PathBuf,
    /// Whom to become when started as root.
    pub user: String,
    /// As in `Settings`.
    pub peer_uid: Option<u32>,
    /// As in `Settings`.
    pub stop_timeout: Duration,
    /// Not being PID 1 is tolerated.
    pub allow_not_init: bool,
}

/// Sixteen random hexadecimal digits.
#[must_use]
pub fn random_hex() -> String {
    crate::core::types::DataId::from_random(random_bytes())
        .as_str()
        .to_owned()
}

/// Random bytes of the kernel.
#[must_use]
pub fn random_bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        // Before the kernel's pool is filled, which takes moments after the machine's start. A repeated id would be worse than none.
        let read = fs::File::open("/dev/random").and_then(|mut f| f.read_exact(&mut bytes));
        assert!(read.is_ok(), "the kernel gives no random numbers");
    }
    bytes
}

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    home: Option<PathBuf>,
}

/// Finds a user by name or number in the texts of /etc/passwd and /etc/group.
fn find_user(name: &str, passwd: &str, group: &str) -> Option<User> {
    let fields = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>());
    let by_name = fields
        .filter(|f| f.len() >= 6)
        .find(|f| f[0] == name || f[2] == name);
    let (login, uid, gid, home) = match by_name {
        Some(f) => (
            f[0],
            f[2].parse().ok()?,
            f[3].parse().ok()?,
            Some(PathBuf::from(f[5])),
        ),
        None => {
            let number = name.parse().ok()?;
            (name, number, number, None)
        }
    };
    let mut groups = vec![gid];
    for f in group.lines().map(|l| l.split(':').collect::<Vec<_>>()) {
        if f.len() >= 4
            && f[3].split(',').any(|member| member == login)
            && let Ok(number) = f[2].parse()
            && !groups.contains(&number)
        {
            groups.push(number);
        }
    }
    Some(User {
        uid,
        gid,
        groups,
        home,
    })
}

/// Checks everything, makes the directories, becomes the server's user. The lock is held as long as the guard lives.
///
/// # Errors
/// What does not hold, and what to change.
pub fn prepare(asked: &Asked) -> anyhow::Result<(Settings, Flock<fs::File>)> {
    let is_init = std::process::id() == 1;
    ensure!(
        is_init || asked.allow_not_init,
        "the guard is not PID 1 of its PID namespace, so its death would not end PostgreSQL. Make it the container's command \
         (without a shell or an init before it, and without shareProcessNamespace), or accept a weaker guarantee with \
         --allow-not-init"
    );
    // Until all of it is known to hold, nothing is changed on disk.
    let (pgdata, parent) = data_place(&asked.pgdata)?;
    let state_dir = parent.join(STATE_DIR);
    let run_dir = real_path(&std::path::absolute(&asked.run_dir)?)?;
    ensure!(
        !run_dir.starts_with(&pgdata) && !run_dir.starts_with(&state_dir),
        "--run-dir {} lies in PGDATA or in pgbaton's own directory beside it: name a directory that only the sidecar's container shares \
         (an emptyDir)",
        run_dir.display()
    );
    let mut settings = Settings {
        run_dir,
        state_dir,
        pgdata,
        peer_uid: asked.peer_uid,
        home: None,
        stop_timeout: asked.stop_timeout,
        is_init,
    };
    let user = whom(&asked.user)?;
    check_same_file_system(&settings)?;
    make_dir(&settings.state_dir, 0o700)?;
    // Before anything of another guard's could be changed.
    let lock = lock_state(&settings.state_dir)?;
    make_dir(&settings.run_dir, 0o755)?;
    if let Some(user) = user {
        become_user(&user, &settings, &parent)
            .with_context(|| format!("cannot become user {}", asked.user))?;
        settings.home = user.home;
    }
    Ok((settings, lock))
}

/// PGDATA's real path and its parent's, where pgbaton can keep its state; neither need exist.
pub(super) fn data_place(pgdata: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let pgdata = resolve(pgdata)?;
    let parent = pgdata.parent().context("PGDATA must not be /")?.to_owned();
    ensure!(
        parent != Path::new("/"),
        "PGDATA is {}, directly below /: pgbaton keeps its state beside PGDATA on the same volume. Mount the volume at /data and set \
         PGDATA=/data/pgdata",
        pgdata.display()
    );
    check_not_mounted(&pgdata)?;
    Ok((pgdata, parent))
}

/// PGDATA's real path; it need not exist.
fn resolve(pgdata: &Path) -> anyhow::Result<PathBuf> {
    ensure!(
        pgdata.is_absolute(),
        "PGDATA must be an absolute path, not '{}'",
        pgdata.display()
    );
    let path = real_path(pgdata)?;
    ensure!(
        path.is_dir() || fs::symlink_metadata(&path).is_err(),
        "PGDATA {} is there and is not a directory",
        path.display()
    );
    Ok(path)
}

/// The path without links, as far as it exists; no part of it is made.
pub(super) fn real_path(path: &Path) -> anyhow::Result<PathBuf> {
    if let Ok(real) = fs::canonicalize(path) {
        return Ok(real);
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(real_path(parent)?.join(name)),
        _ => bail!("cannot resolve {}", path.display()),
    }
}

fn check_not_mounted(pgdata: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .any(|point| Path::new(&unescape(point)) == pgdata);
    ensure!(
        !mounted,
        "PGDATA {} is itself a mount point: pgbaton keeps its state beside it on the same file system and replaces it by renaming. \
         Mount the volume one level higher and set PGDATA to a directory in it, as in /data and /data/pgdata",
        pgdata.display()
    );
    Ok(())
}

/// Mount points are written with octal escapes for blanks.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

/// The device of this path, or of what it will be made in.
fn device(path: &Path) -> std::io::Result<u64> {
    match (fs::metadata(path), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == std::io::ErrorKind::NotFound => device(parent),
        (found, _) => found.map(|m| m.dev()),
    }
}

fn check_same_file_system(settings: &Settings) -> anyhow::Result<()> {
    let of = |path: &Path| device(path).with_context(|| format!("cannot look at {}", path.display()));
    ensure!(
        of(&settings.state_dir)? == of(&settings.pgdata)?,
        "{} is on another file system than PGDATA {}: what this member promised must be lost only together with its data. Mount one \
         volume over both",
        settings.state_dir.display(),
        settings.pgdata.display()
    );
    Ok(())
}

/// Whom to become; none when that was done before the guard was started.
pub(super) fn whom(name: &str) -> anyhow::Result<Option<User>> {
    if !getuid().is_root() {
        return Ok(None);
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let user = find_user(name, &read("/etc/passwd"), &read("/etc/group")).with_context(|| {
        format!("there is no user '{name}' in /etc/passwd of this image: name PostgreSQL's user or its number with --user")
    })?;
    if user.uid == 0 {
        bail!("--user {name} is root: PostgreSQL does not run as root. Name another user or number");
    }
    Ok(Some(user))
}

fn become_user(user: &User, settings: &Settings, parent: &Path) -> anyhow::Result<()> {
    make_dir(&settings.pgdata, 0o700)?;
    // Renaming PGDATA needs the right to write where it lies.
    if fs::metadata(parent)?.uid() == 0 {
        give(parent, user)?;
    }
    give(&settings.run_dir, user)?;
    give_tree(&settings.state_dir, user)?;
    give_tree(&settings.pgdata, user)?;
    // The kernel forgets this with a change of user; whoever started the guard so that it ends with him relies on it.
    let death_signal = get_pdeathsig().unwrap_or(None);
    let groups: Vec<Gid> = user.groups.iter().map(|&g| Gid::from_raw(g)).collect();
    setgroups(&groups)
        .and_then(|()| setgid(Gid::from_raw(user.gid)))
        .and_then(|()| setuid(Uid::from_raw(user.uid)))?;
    set_pdeathsig(death_signal).context("cannot keep the signal that comes with the parent's death")?;
    Ok(())
}

/// Gives this to the user.
pub(super) fn give(path: &Path, user: &User) -> anyhow::Result<()> {
    chown(path, Some(user.uid), Some(user.gid)).with_context(|| format!("cannot chown {}", path.display()))
}

/// Gives what is not the user's to the user, as the image's entrypoint does.
pub(super) fn give_tree(path: &Path, user: &User) -> anyhow::Result<()> {
    let meta = fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if meta.uid() != user.uid {
        std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot chown {}", path.display()))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give_tree(&entry?.path(), user)?;
        }
    }
    Ok(())
}

pub(super) fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| {
            format!(
                "cannot make {}: give the container's user the right to write in {} (fsGroup, or start as root)",
                path.display(),
                path.parent().unwrap_or(path).display()
            )
        })
}

/// Sets the rights that PostgreSQL asks of PGDATA.
///
/// # Errors
/// Of the file system.
pub fn restrict(pgdata: &Path) -> std::io::Result<()> {
    if fs::metadata(pgdata)?.permissions().mode() & 0o7777 != 0o700 {
        fs::set_permissions(pgdata, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Two guards on one volume (a pod deleted by force, its successor on the same node): the second waits, then gives up.
fn lock_state(state_dir: &Path) -> anyhow::Result<Flock<fs::File>> {
    let path = state_dir.join("lock");
    let end = Instant::now() + OTHER_GUARD;
    loop {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(100)),
            Err((_, e)) => bail!(
                "another guard holds {} ({e}): two pods use this volume. End the other one",
                path.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:998::/var/lib/postgresql:/bin/bash\nshort:x\n";
        let group = "root:x:0:\nssl-cert:x:107:a,postgres\npostgres:x:998:postgres\n";
        let found = User {
            uid: 999,
            gid: 998,
            groups: vec![998, 107],
            home: Some("/var/lib/postgresql".into()),
        };
        assert_eq!(find_user("postgres", passwd, group), Some(found.clone()));
        assert_eq!(find_user("999", passwd, group), Some(found));
        assert_eq!(
            find_user("70", passwd, group).map(|u| (u.uid, u.gid)),
            Some((70, 70))
        );
        assert_eq!(find_user("nobody", passwd, group), None);
    }

    #[test]
    fn mount_points_are_recognised() {
        assert!(check_not_mounted(Path::new("/proc")).is_err());
        assert!(check_not_mounted(Path::new("/proc/not-a-mount-point")).is_ok());
        assert_eq!(unescape("/a\\040b"), "/a b");
    }
}
